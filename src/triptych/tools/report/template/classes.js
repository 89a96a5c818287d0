// Which two matrices stand beside each other, and their difference. Without scripts: the best two.
{
  const place = document.querySelector("#matrices");
  const difference = document.querySelector("#difference");
  const choose = document.querySelector("#choose");

  const readCounts = (figure) => [...figure.querySelector("tbody").rows].map((row) =>
    [...row.cells].slice(1).map((cell) => Number(cell.textContent)));
  const shorten = (name) => (name.length > 36 ? `${name.slice(0, 35)}…` : name);

  const write = (share) => {
    const number = Math.abs(100 * share).toFixed(1);
    return number === "0.0" ? "0" : (share < 0 ? "−" : "+") + number;
  };

  const subtract = (figures) => {
    const [one, other] = figures.map(readCounts);
    const add = (row) => row.reduce((sum, count) => sum + count);
    const share = (row, j) => row[j] / (add(row) || 1);
    const cells = one.flatMap((row, i) => row.map((_, j) => ({ i, j, shares: [share(row, j), share(other[i], j)] })));
    const errors = cells.filter(({ i, j }) => i !== j);
    for (const cell of cells) cell.by = cell.shares[0] - cell.shares[1];
    const scale = Math.max(...cells.map(({ by }) => Math.abs(by))) || 1;
    const rows = difference.querySelector("table.heat tbody").rows;
    for (const { i, j, by } of cells) {
      const shown = rows[i].cells[j + 1];
      shown.className = (i === j ? by : -by) < 0 ? "b" : "a";
      shown.style.setProperty("--at", `${100 * Math.sqrt(Math.abs(by) / scale)}%`);
      (shown.querySelector("button") ?? shown).textContent = write(by);
    }
    const images = ({ i, by }) => Math.abs(by) * add(one[i]);
    errors.sort((a, b) => images(b) - images(a));
    [...difference.querySelectorAll(".changes tbody tr")].forEach((row, n) => {
      const { i, j, shares } = errors[n];
      const names = [i, j].map((n) => shorten(rows[n].cells[0].textContent));
      row.querySelectorAll("bdi").forEach((each, n) => (each.textContent = names[n]));
      const link = row.querySelector("a");
      if (link) link.dataset.filters = `truth=${i}&predicted=${j}`;
      shares.forEach((share, n) => (row.cells[n + 1].textContent = (100 * share).toFixed(1)));
    });
  };

  // The opacity of a picture is the square root of a share of the row.
  const makeContext = (size) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    return canvas.getContext("2d");
  };
  const readPicture = async (figure) => {
    const image = figure.querySelector("img");
    await image.decode();
    const size = image.naturalWidth;
    const context = makeContext(size);
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, size, size).data.filter((_, n) => n % 4 === 3);
  };

  const paint = async (figures) => {
    const [one, other] = await Promise.all(figures.map(readPicture));
    const colours = ["--series-0", "--series-1"].map((name) => getComputedStyle(difference).getPropertyValue(name));
    const size = Math.sqrt(one.length);
    const context = makeContext(size);
    one.forEach((opacity, n) => {
      const by = (opacity ** 2 - other[n] ** 2) / 255 ** 2;
      const isRight = n % (size + 1) === 0;
      context.fillStyle = colours[(isRight ? by : -by) < 0 ? 1 : 0];
      context.globalAlpha = Math.sqrt(Math.abs(by));
      context.fillRect(n % size, Math.floor(n / size), 1, 1);
    });
    difference.querySelector("img").src = context.canvas.toDataURL();
  };

  const show = (figures, selects) => {
    const chosen = selects.map((select) => figures[select.value]);
    place.append(...new Set(chosen));
    for (const each of figures) each.hidden = !chosen.includes(each);
    if (!difference) return;
    difference.hidden = chosen[0].dataset.classes !== chosen[1].dataset.classes;
    if (difference.hidden) return;
    const names = selects.map((select) => select.selectedOptions[0].text);
    for (const each of difference.querySelectorAll("[data-name]")) each.textContent = names[each.dataset.name];
    const isPicture = Boolean(difference.querySelector("img"));
    difference.querySelector(".changes").hidden = isPicture && !selects.every((each) => each.selectedOptions[0].defaultSelected);
    if (isPicture) paint(chosen);
    else subtract(chosen);
  };

  if (choose) {
    const figures = [...document.querySelectorAll(".confusion[data-place]")];
    figures.sort((a, b) => a.dataset.place - b.dataset.place);
    const selects = [...choose.querySelectorAll("select")];
    for (const select of selects) select.addEventListener("change", () => show(figures, selects));
    for (const each of figures) each.hidden = !place.contains(each);
    place.append(...figures);
    document.querySelector("#more-matrices").remove();
    choose.hidden = false;
  }
}
