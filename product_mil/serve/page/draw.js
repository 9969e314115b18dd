// Answers as elements. What comes from the server or from a file goes in as text, never as markup.

import {
  contribution,
  counted,
  flipped,
  leaf,
  path,
  percent,
  same,
  sureOf,
  trust,
} from "./words.js";

/** @import {Answer, Category, ImageAnswer, Model, Models, Sample} from "./server.js" */

/** @param {string} id @returns {any} the element with this id */
export const byId = (id) => document.getElementById(id);

/**
 * @param {string} tag
 * @param {string} [className]
 * @param {...(Node|string)} children a string becomes text
 * @returns {any} the new element
 */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/**
 * @param {number} share from 0 to 1; it stands beside the bar as text
 * @returns {HTMLElement}
 */
function bar(share) {
  const filled = make("i");
  filled.style.width = `${100 * share}%`;
  const whole = make("span", "bar", filled);
  whole.setAttribute("aria-hidden", "true");
  return whole;
}

/** @param {string[]} names @returns {HTMLElement} the groups above a category, small */
const groups = (names) =>
  make("span", "groups", names.length > 1 ? `${path(names.slice(0, -1))} ›` : "");

/**
 * @param {string} tag
 * @param {Category} category
 * @returns {HTMLElement} with its probability as a number and as a bar
 */
const guess = (tag, { names, probability }) =>
  make(
    tag,
    "guess",
    make("span", "name", groups(names), " ", make("span", "leaf", leaf(names))),
    " ",
    make("span", "number", percent(probability)),
    bar(probability),
  );

/**
 * @param {boolean} right
 * @param {string} yes what it says if right
 * @param {string} no and if not
 * @returns {HTMLElement}
 */
const badge = (right, yes, no) => make("span", right ? "badge right" : "badge", right ? yes : no);

/**
 * @typedef {object} Shown
 * @property {Models} models
 * @property {Model} model whose answer it is
 * @property {Answer} answer
 * @property {Answer} whole the answer to all images, none switched off
 * @property {string[]|null} label of a sample
 * @property {number|null} wanted how sure the model has to be of what it names
 */

/** @param {Shown} shown @returns {HTMLElement} the answer of a model */
export function column({ models, model, answer, whole, label, wanted }) {
  const [first] = answer.categories;
  const changed = flipped(whole, answer);
  const heading = make("h3", "", model.name);
  if (changed) heading.append(" ", make("span", "badge changed", "changed"));
  if (label) {
    const right = path(label) === path(first.names);
    heading.append(" ", badge(right, "as labelled", "not as labelled"));
  }
  const trusted = [trust(answer)];
  if (answer.sure && wanted !== null) trusted.push(sureOf(answer.sure, models.levels, wanted));
  const others = make("ol");
  others.append(...answer.categories.slice(1, 5).map((other) => guess("li", other)));
  others.setAttribute("aria-label", `What else it may be, by ${model.name}`);
  return make(
    "article",
    changed ? "flipped" : "",
    heading,
    guess("p", first),
    ...trusted.map((sentence) => make("p", "trust", sentence)),
    others,
  );
}

/**
 * @param {ImageAnswer} image
 * @param {Category} first category of the product's answer
 * @returns {HTMLElement[]} what an image did for the answer of a model
 */
function effect(image, first) {
  if (image.error !== null) return [make("p", "fault", image.error)];
  const name = make("b", "", leaf(image.names));
  const agreement = badge(same(image, first), "agrees", "differs");
  const added = image.contribution;
  return [
    make("p", "", `attention ${percent(image.attention)}`, bar(image.attention)),
    ...(added === null ? [] : [make("p", "", contribution(added, leaf(first.names)))]),
    make("p", "", "alone: ", groups(image.names), " ", name, " ", agreement),
  ];
}

/**
 * @param {{number: string, file: File, img: Node}} image with its number and a thumbnail
 * @param {Model[]} models
 * @param {Answer[]} answers
 * @param {number} place of the image in the answers
 * @returns {HTMLElement} what each model says of an image
 */
export function row({ number, file, img }, models, answers, place) {
  const name = make("h3", "", `Image ${number} `, make("span", "fine", file.name));
  const said = answers.map(({ images, categories }, which) => {
    const part = make("div", "effect", ...effect(images[place], categories[0]));
    if (models.length > 1) part.prepend(make("h4", "", models[which].name));
    return part;
  });
  return make("li", "", img, make("div", "what", name, make("div", "effects", ...said)));
}

/**
 * @typedef {{item: HTMLElement, img: HTMLImageElement, box: HTMLInputElement,
 *   number: HTMLElement, remove: HTMLButtonElement}} Thumbnail
 */

/**
 * @param {string} source of the image
 * @returns {Thumbnail} of an image that is used, with a box to switch it off and a button to remove
 */
export function thumbnail(source) {
  const img = make("img");
  img.src = source;
  const box = make("input");
  Object.assign(box, { type: "checkbox", checked: true });
  const remove = make("button", "remove", "×");
  remove.type = "button";
  const number = make("span");
  const name = make("span", "state", make("span", "word", "Image "), number);
  const label = make("label", "", img, make("span", "use", box, name));
  return { item: make("li", "", label, remove), img, box, number, remove };
}

/**
 * Number a thumbnail, and name its parts for those who don't see them.
 * @param {Thumbnail} shown
 * @param {number} number from 1
 * @param {File} file
 * @param {boolean} used
 */
export function describe(shown, number, file, used) {
  shown.item.classList.toggle("off", !used);
  shown.number.textContent = String(number);
  shown.img.alt = `Image ${number}: ${file.name}`;
  shown.box.setAttribute("aria-label", `Use image ${number}, ${file.name}`);
  shown.remove.setAttribute("aria-label", `Remove image ${number}, ${file.name}`);
}

/**
 * @param {Sample} sample
 * @param {() => void} show
 * @returns {HTMLElement}
 */
export function sampleButton({ number, names, images }, show) {
  const button = make("button", "sample");
  button.type = "button";
  const shown = images.slice(0, 4).map((source) => {
    const img = make("img");
    Object.assign(img, { src: source, alt: "", loading: "lazy", width: 56, height: 56 });
    return img;
  });
  const said = [`Sample ${number + 1}: ${counted(images.length, "image")}`];
  if (names) said.push(`label ${path(names)}`);
  button.setAttribute("aria-label", said.join(", "));
  const caption = make("span", "fine", names ? leaf(names) : said[0]);
  button.append(make("span", "thumbnails", ...shown), caption);
  button.addEventListener("click", show);
  return make("li", "", button);
}

/** @param {Model[]} models @returns {HTMLElement[]} what the server runs */
export const about = (models) =>
  models.map(({ name, summary }) => make("p", "fine", make("b", "", name), ` ${summary}`));
