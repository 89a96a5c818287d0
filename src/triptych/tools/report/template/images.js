// The pictures: filters, arrow keys, one enlarged; a cell of a confusion matrix shows its images.
// Without scripts: the first ones, and the others folded.
if (document.querySelector("#pictures")) {
  const gallery = document.querySelector("#pictures");
  const STEP = 24;
  const dialog = document.querySelector("#picture");
  const form = document.querySelector("#filters");
  const fields = form.elements;
  const count = document.querySelector("#count");
  const valueOf = (name) => fields[name]?.value ?? "";
  const textsOf = (name) => [...fields[name].options].filter((each) => each.value).map((each) => each.text);

  const rest = document.querySelector("#more-pictures");
  if (rest) gallery.append(...rest.querySelectorAll("li"));
  rest?.remove();
  const images = [...gallery.children].map((item) => {
    const numbers = (name) => item.dataset[name].split(" ").map(Number);
    const [[truth], labels, sure] = [numbers("label"), numbers("labels"), numbers("sure")];
    const button = document.createElement("button");
    const picture = item.querySelector("img");
    picture.replaceWith(button);
    button.append(picture);
    return { item, button, picture, truth, labels, sure, right: labels.map((label) => label === truth) };
  });
  const more = document.createElement("button");
  more.textContent = `Show ${STEP} more`;
  gallery.after(more);
  let [found, limit, current] = [images, STEP, 0];

  const kinds = {
    all: () => true,
    split: ({ right }) => right.includes(true) && right.includes(false),
    none: ({ right }) => !right.includes(true),
    pair: ({ right }) => right[valueOf("a")] && !right[valueOf("b")],
    sure: ({ right }, networks) => networks.some((n) => !right[n]),
  };

  const show = () => {
    gallery.replaceChildren(...found.slice(0, limit).map(({ item }) => item));
    found.forEach(({ button }, n) => (button.tabIndex = n ? -1 : 0));
    more.hidden = found.length <= limit;
    const [shown, all] = [Math.min(limit, found.length), images.length];
    const part = shown < found.length ? `; ${shown} are shown` : "";
    const fitting = found.length < all ? `${found.length} of ${all} pictures fit${part}` : `${shown} of ${all} pictures`;
    count.textContent = shown
      ? `${fitting}.`
      : `None of ${all} pictures fits: runs keep their most confident mistakes only.`;
  };

  const filter = () => {
    const kind = valueOf("kind");
    for (const name of "ab") if (fields[name]) fields[name].parentElement.hidden = kind !== "pair";
    const networks = valueOf("network") ? [Number(valueOf("network"))] : images[0].labels.map((_, n) => n);
    const isChosen = (name, values) => !valueOf(name) || values.includes(Number(valueOf(name)));
    const surest = ({ right, sure }) => Math.max(...networks.map((n) => (right[n] ? 0 : sure[n] || 0)));
    found = images.filter((image) => kinds[kind](image, networks) && isChosen("truth", [image.truth])
      && isChosen("predicted", networks.map((n) => image.labels[n])));
    if (kind === "sure") found.sort((a, b) => surest(b) - surest(a));
    limit = STEP;
    show();
  };

  const enlarge = (place) => {
    if (!found[place]) return;
    current = place;
    const { picture, labels, sure, right } = found[place];
    const [classes, networks] = [textsOf("truth"), textsOf("network")];
    dialog.querySelector("h4").textContent = picture.alt;
    dialog.querySelector("img").src = picture.src;
    dialog.querySelector("ul").replaceChildren(...labels.map((label, n) => {
      const item = document.createElement("li");
      const confidence = sure[n] >= 0 ? ` ${sure[n].toFixed(1)} %` : "";
      item.textContent = `${right[n] ? "✓" : "✗"} ${classes[label]}${confidence} (${networks[n]})`;
      return item;
    }));
    if (!dialog.open) dialog.showModal();
  };

  // One stop of the Tab key; arrows move among the buttons within.
  const rove = (element) => element.addEventListener("keydown", (event) => {
    const buttons = [...element.querySelectorAll("button")];
    const tops = buttons.map((each) => each.getBoundingClientRect().top);
    const width = tops.filter((top) => top === tops[0]).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width };
    const from = buttons.indexOf(document.activeElement);
    const next = from >= 0 && buttons[from + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    [buttons[from].tabIndex, next.tabIndex] = [-1, 0];
    next.focus();
  });

  const addButtons = (figure) => {
    const table = figure.querySelector("table.heat");
    if (!table) return;
    const names = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent);
    [...table.querySelectorAll("tbody td")].forEach((cell, n) => {
      const [truth, predicted] = [Math.floor(n / names.length), n % names.length];
      const button = document.createElement("button");
      button.dataset.filters = new URLSearchParams({ truth, predicted, network: figure.dataset.network ?? "" });
      button.title = `${names[truth]} taken for ${names[predicted]}`;
      button.tabIndex = n ? -1 : 0;
      button.append(...cell.childNodes);
      cell.append(button);
    });
    rove(table);
  };

  for (const figure of document.querySelectorAll(".confusion")) addButtons(figure);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-filters]");
    if (!link) return;
    event.preventDefault();
    form.reset();
    for (const [name, value] of new URLSearchParams(link.dataset.filters)) fields[name].value = value;
    filter();
    form.scrollIntoView();
    (found[0]?.button ?? fields.kind).focus({ preventScroll: true });
  });
  for (const image of images) image.button.addEventListener("click", () => enlarge(found.indexOf(image)));
  rove(gallery);
  dialog.addEventListener("keydown", ({ key }) => enlarge(current + { ArrowLeft: -1, ArrowRight: 1 }[key]));
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    limit = Math.max(limit, current + 1);
    show();
    found[current].button.focus();
  });
  more.addEventListener("click", () => {
    limit += STEP;
    show();
  });
  form.addEventListener("change", filter);
  form.hidden = false;
  filter();
}
