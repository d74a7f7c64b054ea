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
