
"use strict";
// Everything from data goes in as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const cards = byId("cards");
const runs = [cards.dataset.a, cards.dataset.b];
const alone = cards.dataset.alone;
const PER_PAGE = 12;
let page = 0;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

const path = (id) => data.names[id] || [String(id)];
const leaf = (id) => path(id)[path(id).length - 1];
const percent = (p) => (p === null ? "" : (100 * p).toFixed(p >= 0.0995 || p < 0.0005 ? 0 : 1) + "\u00a0%");

// "+3.1", "−0.4" with a proper minus, and no sign before a zero.
function signed(value) {
  const text = Math.abs(value).toFixed(1);
  return (text === "0.0" ? "" : value > 0 ? "+" : "\u2212") + text;
}

function guessLine(parent, id, truth) {
  const right = String(id) === String(truth);
  parent.append(make("span", (right ? "✓ " : "") + leaf(id), right ? "right" : ""));
  if (right) parent.lastChild.append(make("span", " (right)", "hidden"));
}

function shots(card) {
  const list = make("ul", undefined, "shots");
  const { attention, adds, top } = card.runs[runs[0]];
  const guesses = alone ? card.runs[alone].alone : {};
  card.pictures.forEach((number, index) => {
    const figure = make("figure");
    const caption = make("figcaption");
    const name = `Image ${index + 1} of ${card.pictures.length}`;
    if (number === null) {
      figure.append(make("div", "not readable", "missing"));
    } else {
      const image = make("img");
      image.src = data.pictures[number];
      image.alt = name;
      image.loading = "lazy";
      image.decoding = "async";
      image.width = image.height = 112;
      figure.append(image);
    }
    if (attention[index] !== undefined) {
      const bar = make("span", undefined, "weight");
      bar.setAttribute("aria-hidden", "true");
      bar.append(make("i"));
      bar.firstChild.style.width = 100 * attention[index] + "%";
      caption.append(bar, make("span", "attention " + percent(attention[index])), make("br"));
    }
    if (adds[index] !== undefined) {
      caption.append(make("span", `${signed(adds[index])} for ${leaf(top[0][0])}`), make("br"));
    }
    if (guesses[index] !== undefined) {
      caption.append(make("span", "alone: "));
      guessLine(caption, guesses[index], card.true);
    } else if (number !== null && Object.keys(guesses).length) {
      caption.append(make("span", "not used"));
    }
    figure.append(caption);
    const item = make("li");
    item.append(figure);
    list.append(item);
  });
  return list;
}

function answer(card, run) {
  const part = make("div");
  part.append(make("h4", run));
  const list = make("ol");
  for (const [id, probability] of card.runs[run].top) {
    const item = make("li");
    item.title = path(id).join(" › ");
    guessLine(item, id, card.true);
    item.append(make("span", percent(probability)));
    list.append(item);
  }
  part.append(list);
  return part;
}

function article(card) {
  const element = make("article");
  const heading = make("h3");
  heading.append(make("span", card.kind, "badge " + card.kind), leaf(card.true));
  element.append(heading);
  const parents = path(card.true).slice(0, -1).concat("product " + card.id);
  element.append(make("p", parents.join(" › "), "path"));
  if (card.pictures.length) element.append(shots(card));
  const answers = make("div", undefined, "answers");
  for (const run of runs) answers.append(answer(card, run));
  element.append(answers);
  return element;
}

function chosen() {
  const kind = byId("kind").value, category = byId("category").value, count = byId("count").value;
  return data.cards.filter((card) =>
    (!kind || card.kind === kind) &&
    (!category || path(card.true)[0] === category.slice(1)) &&
    (!count || String(card.images) === count));
}

function draw() {
  const found = chosen();
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const first = page * PER_PAGE;
  cards.replaceChildren(...found.slice(first, first + PER_PAGE).map(article));
  byId("status").textContent = found.length
    ? `${first + 1} to ${Math.min(first + PER_PAGE, found.length)} of ${found.length} products, page ${page + 1} of ${pages}`
    : "no product fits these filters";
  for (const id of ["back", "back2"]) byId(id).disabled = page === 0;
  for (const id of ["next", "next2"]) byId(id).disabled = page >= pages - 1;
}

function turn(by, top) {
  page += by;
  draw();
  if (top) {
    byId("gallery").scrollIntoView();
    byId("gallery").focus({ preventScroll: true });
  }
}

function offer(select, values, prefix) {
  for (const [value, number] of values) {
    const option = make("option", `${value} (${number})`);
    option.value = prefix + value;
    select.append(option);
  }
}

function tally(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return [...counts].sort((x, y) => (x[0] < y[0] ? -1 : x[0] > y[0] ? 1 : 0));
}

// "=" before a category: one with an empty name is still not "all".
offer(byId("category"), tally(data.cards.map((card) => path(card.true)[0])), "=");
offer(byId("count"), tally(data.cards.map((card) => card.images).filter((n) => n !== null)), "");
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("change", () => { page = 0; draw(); });
byId("back").addEventListener("click", () => turn(-1, false));
byId("next").addEventListener("click", () => turn(1, false));
byId("back2").addEventListener("click", () => turn(-1, true));
byId("next2").addEventListener("click", () => turn(1, true));
draw();

// The pairs of one entry; without JavaScript all are shown.
const one = byId("one");
if (one) {
  byId("pairfilter").hidden = false;
  byId("pairfilter").addEventListener("submit", (event) => event.preventDefault());
  one.addEventListener("change", () => {
    for (const row of byId("pairrows").rows) {
      const { better, worse } = row.dataset;
      row.hidden = one.value !== "" && ![better, worse].includes(one.value.slice(1));
    }
  });
}
