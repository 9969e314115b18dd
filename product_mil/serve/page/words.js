// Numbers and sentences.

/** @import {Answer, Category, Model, Sure} from "./server.js" */

/** @param {string[]} names @returns {string} */
export const path = (names) => names.join(" › ");

/** @param {string[]} names @returns {string} the last name of a path */
export const leaf = (names) => names[names.length - 1] ?? "";

/**
 * Ids alone don't do: JavaScript rounds large numbers.
 * @param {{category_id: number|string, names: string[]}} a
 * @param {{category_id: number|string, names: string[]}} b
 * @returns {boolean}
 */
export const same = (a, b) =>
  a.category_id === b.category_id && path(a.names) === path(b.names);

/** @param {number} p from 0 to 1 @returns {string} such as "83 %", "5.2 %", "> 99.9 %" */
export function percent(p) {
  if (p <= 0 || p >= 1) return p <= 0 ? "0\u00a0%" : "100\u00a0%";
  if (p < 0.001) return "<\u00a00.1\u00a0%";
  if (p > 0.999) return ">\u00a099.9\u00a0%";
  return (100 * p).toFixed(p < 0.0995 || p > 0.9905 ? 1 : 0) + "\u00a0%";
}

/** @param {string[]} words @returns {string} such as "1, 2 and 4" */
function listed(words) {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
}

/** @param {string[]} numbers @returns {string} such as "Image 2" or "Images 2 and 4" */
export const numbered = (numbers) => `Image${numbers.length > 1 ? "s" : ""} ${listed(numbers)}`;

/**
 * @param {number} n
 * @param {string} noun
 * @param {string} [plural]
 * @returns {string} such as "1 image", "3 images", "5,270 categories"
 */
export const counted = (n, noun, plural = `${noun}s`) =>
  `${n.toLocaleString("en")} ${n === 1 ? noun : plural}`;

/** @param {number} number @returns {string} in MB, or in kB below one */
export const bytes = (number) =>
  number < 1e6 ? `${Math.round(number / 1e3)}\u00a0kB` : `${+(number / 1e6).toFixed(1)}\u00a0MB`;

/** @param {number} value @param {string} name @returns {string} what an image adds to a category */
export function contribution(value, name) {
  const amount = Math.abs(value).toFixed(1);
  if (amount === "0.0") return `adds nothing to the score of ${name}`;
  return `${value > 0 ? `adds ${amount} to` : `takes ${amount} from`} the score of ${name}`;
}

/** @param {Category} category @returns {string} such as "SHOE (83 %)" */
const withShare = ({ names, probability }) => `${leaf(names)} (${percent(probability)})`;

/**
 * @param {Model[]} models one or two
 * @param {Answer[]} answers of each
 * @returns {string} what they say, in a sentence
 */
export function verdict(models, answers) {
  const [first, second] = models.map(({ name }) => name);
  const [a, b] = answers.map(({ categories }) => categories[0]);
  const [ofA, ofB] = answers.map(({ categories }) => percent(categories[0].probability));
  if (b === undefined) return `${first} says ${leaf(a.names)}, with ${ofA}.`;
  return same(a, b)
    ? `Both say ${leaf(a.names)}: ${first} with ${ofA}, ${second} with ${ofB}.`
    : `They disagree: ${first} says ${withShare(a)}, ${second} says ${withShare(b)}.`;
}

/**
 * @param {Answer} a
 * @param {Answer} b
 * @returns {boolean} whether their first categories differ
 */
export const flipped = (a, b) => !same(a.categories[0], b.categories[0]);

/**
 * What switching images off does to the answer of a model.
 * @param {string} model its name
 * @param {Answer} whole the answer to all images
 * @param {Answer} now the answer without some
 * @returns {string}
 */
export function change(model, whole, now) {
  const [before] = whole.categories;
  const [first] = now.categories;
  const found = now.categories.find((category) => same(category, before));
  // The list ends before it: it has less than the last one.
  const last = now.categories[now.categories.length - 1];
  const after = found ? percent(found.probability) : `less than ${percent(last.probability)}`;
  const former = percent(before.probability);
  const then = after === former ? `${after} as before` : `${after} instead of ${former}`;
  return same(before, first)
    ? `${model} still says ${leaf(before.names)}, with ${then}.`
    : `${model} changes its answer to ${withShare(first)}; ${leaf(before.names)} has ${then}.`;
}

/**
 * @param {Answer} answer
 * @param {string[]} numbers of its images
 * @returns {string[]} which images were not used and why, those with the same reason together
 */
export function unused({ images }, numbers) {
  /** @type {Map<string, string[]>} */
  const byReason = new Map();
  images.forEach(({ error }, place) => {
    if (error !== null) byReason.set(error, [...(byReason.get(error) ?? []), numbers[place]]);
  });
  return [...byReason].map(([reason, which]) => `${numbered(which)}: ${reason}`);
}

/** @param {Answer} answer @returns {string} how far to trust its first category */
export function trust({ confidence, from_prior: fromPrior }) {
  if (fromPrior) {
    return (
      "No image could be used, " +
      "so these are the most frequent categories of the training data."
    );
  }
  return confidence === null
    ? "This model is not calibrated: its probabilities may be too high or too low."
    : `Of 100 answers like this, about ${Math.round(100 * confidence)} are right.`;
}

/**
 * @param {Sure} sure
 * @param {number} levels of the tree of categories
 * @param {number} wanted the least probability
 * @returns {string} of what the model is sure
 */
export function sureOf({ level, names, probability }, levels, wanted) {
  const least = percent(wanted);
  if (level === 0) return `It is not ${least} sure of any category or group.`;
  if (level === levels) return `It is at least ${least} sure of the category.`;
  const group = `${path(names)} (${percent(probability)})`;
  return `It is at least ${least} sure of the group ${group}, not of the category.`;
}

/** @param {Model[]} models @returns {string} what the figures of an image are */
export function explained(models) {
  const sums = models.filter((model) => model.sums_over_images).map(({ name }) => name);
  return [
    "Attention is the share that an image had in the answer.",
    "Alone: what the model says of this image without the others.",
    ...sums.map(
      (name) =>
        `The score is the logit of the first category: in ${name} the parts of all images ` +
        "together are how far it lies above the mean of all categories.",
    ),
  ].join(" ");
}
