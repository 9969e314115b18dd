// What the page asks of the server. docs/guide/serving.md describes the answers.

/**
 * @typedef {{category_id: number|string, names: string[], probability: number}} Category
 * @typedef {{attention: number, category_id: number|string, names: string[],
 *   contribution: number|null, error: null}} UsedImage
 * @typedef {UsedImage|{error: string}} ImageAnswer
 * @typedef {{level: number, names: string[], probability: number}} Sure
 * @typedef {{categories: Category[], confidence: number|null, sure: Sure|null,
 *   images: ImageAnswer[], from_prior: boolean}} Answer
 * @typedef {{name: string, summary: string, pooling: string, backbone: string,
 *   calibrated: boolean, sums_over_images: boolean}} Model
 * @typedef {{model: Model, beside: Model|null, max_images: number, max_images_accepted: number,
 *   max_image_bytes: number, max_request_bytes: number, num_categories: number, levels: number}} Models
 * @typedef {{number: number, names: string[]|null, images: string[]}} Sample
 */

/** The server refused, or does not answer: the message says what to do. */
export class Refused extends Error {
  /** It starts, and will answer soon. */
  early = false;
}

/**
 * @template T
 * @param {string} path
 * @param {(response: Response) => Promise<T>} read what comes back
 * @param {RequestInit} [options]
 * @returns {Promise<T>}
 */
async function request(path, read, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
    if (response.ok) {
      const value = await read(response);
      options.signal?.throwIfAborted(); // it may have come at the same moment
      return value;
    }
  } catch {
    throw new Refused("The server does not answer. See whether it still runs, then try again.");
  }
  const { detail } = await response.json().catch(() => ({}));
  const refused = new Refused(
    typeof detail === "string" ? detail : `The server answered with the error ${response.status}.`,
  );
  refused.early = response.status === 503;
  throw refused;
}

/** @param {Response} response @returns {Promise<any>} */
const json = (response) => response.json();

/** @returns {Promise<Models>} what the server runs, and its limits */
export const models = () => request("/v1/model", json);

/** @returns {Promise<Sample[]>} products to try */
export const samples = async () => (await request("/v1/examples", json)).examples;

/**
 * @param {Sample} sample
 * @param {AbortSignal} signal
 * @returns {Promise<File[]>} its images, with their bytes as they are
 */
export function sampleImages({ images }, signal) {
  return Promise.all(
    images.map(async (path, index) => {
      const blob = await request(path, (response) => response.blob(), { signal });
      return new File([blob], `${index + 1}.jpg`, { type: blob.type });
    }),
  );
}

/** @param {File} image @returns {Promise<Blob>} what it holds now */
async function content(image) {
  try {
    return new Blob([await image.arrayBuffer()], { type: image.type });
  } catch {
    throw new Refused(`${image.name} can't be read any more. Remove it, or choose it again.`);
  }
}

/**
 * Classify one product.
 * @param {File[]} images
 * @param {Record<string, string|number|boolean>} fields of the form beside the images
 * @param {AbortSignal} signal
 * @returns {Promise<Answer[]>} of the model, then of the one beside it if there is one
 */
export async function predict(images, fields, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
  for (const image of images) form.append("images", await content(image), image.name);
  const answer = await request("/v1/predict", json, { method: "POST", body: form, signal });
  return [answer.products[0], ...(answer.beside ?? [])];
}
