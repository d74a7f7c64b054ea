// Sends what a form says and shows the answer below it.

async function send(form) {
  let path = form.dataset.path;
  const headers = {};
  for (const input of form.querySelectorAll("input")) {
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.dataset.in === "header" && input.value) headers[input.name] = input.value;
  }
  const body = form.querySelector("textarea")?.value;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: form.dataset.method, headers, body });
  const text = await answer.text();
  return `${answer.status} ${answer.statusText}\n\n${readable(text)}`;
}

function readable(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const shown = form.querySelector(".answer");
    shown.hidden = false;
    shown.textContent = "…";
    shown.textContent = await send(form).catch((error) => `no answer: ${error.message}`);
  });
}
