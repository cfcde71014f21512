// What all widgets share: elements built from text (never from HTML), messages, keys that stay inside the widget.

const SVG = "http://www.w3.org/2000/svg";

// An element; `on` holds its listeners, children are nodes or text.
function el(tag, props = {}, ...children) {
  const svg = tag.startsWith("svg:");
  const node = svg ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
}

// Untrusted text; its own direction is found by the browser.
const words = (text, props = {}) => el("div", { dir: "auto", ...props, class: `ll-text ${props.class ?? ""}` }, text);

const button = (label, act, props = {}) => el("button", { type: "button", class: "ll-button", ...props, on: { click: act } }, label);

function select(label, options, value, act) {
  const menu = el("select", { class: "ll-select", "aria-label": label, on: { change: () => act(menu.value) } },
    options.map(([key, text]) => el("option", { value: key }, text)));
  menu.value = value;
  return el("label", { class: "ll-field" }, el("span", {}, label), menu);
}

const number = (value, digits = 3) =>
  value === null || value === undefined || Number.isNaN(value) ? "n/a" : Number(value).toFixed(digits).replace("-", "\u2212");

// A binary trait arrives as a DataView.
const bytesOf = (view) =>
  view instanceof Uint8Array ? view : new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength);

const blobURL = (bytes) => URL.createObjectURL(new Blob([bytes], { type: mimeOf(bytes) }));

function mimeOf(bytes) {
  if (bytes[0] === 0x89) return "image/png";
  if (bytes[0] === 0xff) return "image/jpeg";
  return "application/octet-stream";
}

function download(name, bytes, type) {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// The frame of a widget: heading for screen readers, a place for messages, a quiet line for announcements.
function frame(root, name, title) {
  root.classList.add("ll", `ll-${name}`);
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", title);
  // JupyterLab reads keys before the widget does; inside this element it should not.
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  const message = el("div", { class: "ll-message", role: "alert", hidden: true });
  const live = el("div", { class: "ll-live", "aria-live": "polite" });
  const body = el("div", { class: "ll-body" });
  root.replaceChildren(message, body, live);
  return {
    body,
    say: (text) => { live.textContent = text; },
    warn: (text) => { message.hidden = !text; message.textContent = text; },
  };
}

// Listen to traits and messages of the model; `stop` takes everything back when the view goes.
function listen(model) {
  const undo = [];
  return {
    on(event, act) {
      model.on(event, act);
      undo.push(() => model.off(event, act));
    },
    also(act) { undo.push(act); },
    stop() { undo.splice(0).forEach((act) => act()); },
  };
}

function put(model, changes) {
  for (const [name, value] of Object.entries(changes)) model.set(name, value);
  model.save_changes();
}
