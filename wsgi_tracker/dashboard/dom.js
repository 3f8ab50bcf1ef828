// Elements, made of names and text. Nothing here, nor anywhere else, takes a string for markup:
// paths, referers, agents and hosts are what any stranger sent.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; of attributes, functions listen to the event of that name. */
export function element(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

/** Make a button that does something when it is clicked. */
export function button(text, click, attributes = {}) {
  return element("button", { type: "button", click, ...attributes }, text);
}

/** Make an element of SVG. */
export function svg(name, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== false && child != null));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Replace the choices of a select, which are pairs of value and text. */
export function offer(select, choices) {
  select.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
}

/** Choose a value of a select; one that is not on offer comes last. */
export function choose(select, value) {
  if (![...select.options].some((option) => option.value === value)) {
    select.append(element("option", { value }, value));
  }
  select.value = value;
}

/** Be told what is in an input, when whoever types pauses. */
export function onTyping(input, listener) {
  let timer = null;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => listener(input.value), 200);
  });
}
