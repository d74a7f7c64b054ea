// What the pages do with their elements.

export const element = (id) => document.getElementById(id);

export const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

export const put = (id, text, mood = "") => {
  if (element(id).textContent !== text) element(id).textContent = text;
  element(id).className = mood;
};
