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
    const fitting = found.length < all ? `${found.length} that fit, of ${all} pictures` : `${all} pictures`;
    count.textContent = shown
      ? `${shown} of ${fitting}.`
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

  const focus = (place) => {
    current = Math.max(0, Math.min(place, found.length - 1));
    if (limit <= current) {
      limit = current + STEP;
      show();
    }
    for (const { button } of found) button.tabIndex = -1;
    found[current].button.tabIndex = 0;
    found[current].button.focus();
  };

  const enlarge = (place) => {
    current = Math.max(0, Math.min(place, found.length - 1));
    const { picture, labels, sure, right } = found[current];
    const [classes, networks] = [textsOf("truth"), textsOf("network")];
    dialog.querySelector("h4").textContent = picture.alt;
    dialog.querySelector("img").src = picture.src;
    const rows = labels.map((label, n) => {
      const row = document.createElement("tr");
      const shown = [networks[n], `${right[n] ? "✓" : "✗"} ${classes[label]}`, sure[n] >= 0 ? sure[n].toFixed(1) : "–"];
      for (const text of shown) row.insertCell().textContent = text;
      return row;
    });
    dialog.querySelector("tbody").replaceChildren(...rows);
    if (!dialog.open) dialog.showModal();
  };

  const steps = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: (width) => -width, ArrowDown: (width) => width };
  const onArrow = (element, act) => element.addEventListener("keydown", (event) => {
    if (!steps[event.key]) return;
    event.preventDefault();
    act(steps[event.key]);
  });

  const choose = (filters) => {
    form.reset();
    for (const [name, value] of new URLSearchParams(filters)) fields[name].value = value;
    filter();
    form.scrollIntoView();
    (found[0]?.button ?? fields.kind).focus({ preventScroll: true });
  };

  // A matrix is one stop of the Tab key; arrows move within.
  const makeButtons = (figure) => {
    const cells = [...figure.querySelectorAll("table.heat tbody td")];
    const buttons = cells.map((cell, n) => {
      const button = document.createElement("button");
      const filters = { truth: cell.parentElement.rowIndex - 1, predicted: cell.cellIndex - 1 };
      button.dataset.filters = new URLSearchParams({ ...filters, network: figure.dataset.network ?? "" });
      button.tabIndex = n ? -1 : 0;
      button.append(...cell.childNodes);
      cell.append(button);
      return button;
    });
    onArrow(figure, (step) => {
      const from = buttons.indexOf(document.activeElement);
      const next = buttons[from + step(Math.sqrt(buttons.length))];
      if (from < 0 || !next) return;
      [buttons[from].tabIndex, next.tabIndex] = [-1, 0];
      next.focus();
    });
  };

  for (const figure of document.querySelectorAll(".confusion")) makeButtons(figure);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-filters]");
    if (!link) return;
    event.preventDefault();
    choose(link.dataset.filters);
  });
  images.forEach((image) => image.button.addEventListener("click", () => enlarge(found.indexOf(image))));
  onArrow(gallery, (step) => {
    const width = [...gallery.children].filter((each) => each.offsetTop === gallery.children[0].offsetTop).length;
    focus(found.findIndex(({ button }) => button === document.activeElement) + step(width));
  });
  onArrow(dialog, (step) => enlarge(current + step(1)));
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => focus(current));
  more.addEventListener("click", () => {
    limit += STEP;
    show();
  });
  form.addEventListener("change", filter);
  form.hidden = false;
  filter();
}
