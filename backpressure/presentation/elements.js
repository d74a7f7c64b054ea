// What the pages do with their elements.

export const element = (id) => document.getElementById(id);

export const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// What says the same as before is left alone: it is not laid out again.
export const putText = (place, text) => {
  if (place.textContent !== text) place.textContent = text;
};

export const put = (id, text, mood = "") => {
  const place = element(id);
  putText(place, text);
  if (place.className !== mood) place.className = mood;
};

// The button between light and dark. The choice is kept for the pages of this origin, where there is a place for it.
export const switchTheme = (button) => {
  const root = document.documentElement;
  const kept = (use) => {
    try {
      return use(localStorage);
    } catch {
      return null; // a page without an origin has no storage
    }
  };
  const chosen = kept((storage) => storage.getItem("theme"));
  if (chosen) root.dataset.theme = chosen;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    kept((storage) => storage.setItem("theme", root.dataset.theme));
  });
};

// The link past the header: it leaves the part of the address behind # alone, which may say what the page shows.
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  element("main").focus();
});
