// What stands on the page leaves it: tables as Markdown, LaTeX or CSV, charts as SVG, PNG or data.
{
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  status.className = "status";
  document.body.append(status);

  const say = (text) => {
    status.textContent = text;
    setTimeout(() => (status.textContent = ""), 4000);
  };

  const addButtons = (place, label, actions) => {
    const tools = document.createElement("p");
    tools.className = "tools";
    tools.append(label);
    for (const [name, act] of Object.entries(actions)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => act(button));
      tools.append(" ", button);
    }
    place.after(tools);
    return tools;
  };

  // Where the clipboard is not to be had, the text stands in a window to be copied by hand.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied.");
    } catch {
      const box = document.createElement("dialog");
      const area = document.createElement("textarea");
      area.value = text;
      area.setAttribute("aria-label", "To copy");
      box.append(area);
      box.addEventListener("close", () => box.remove());
      document.body.append(box);
      box.showModal();
      area.select();
      const isCopied = document.execCommand("copy");
      if (isCopied) box.close();
      say(isCopied ? "Copied." : "Press Ctrl+C to copy, Escape to close.");
    }
  };

  const save = (content, heading, ending) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `${heading.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 80)}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const text = (cell) => cell.textContent.replace(/\s+/g, " ").trim();

  // The value of a cell in full and in the unit of its column: percent, points. An interval stays.
  const writeInFull = (cell) => {
    const [shown, value] = [text(cell).replace("−", "-").replaceAll(",", ""), cell.dataset.value];
    if (!value || shown.includes("(")) return text(cell);
    const isShare = Math.abs(shown - 100 * value) < Math.abs(shown - value);
    return isShare ? String(Number((100 * value).toPrecision(12))) : value;
  };

  // The columns that are shown, without those of bars; of a cell its value where `exactly`.
  const read = (table, exactly = false) => {
    const heads = [...table.tHead.rows].at(-1).cells;
    const isRead = (head) => head.offsetParent && !head.querySelector(".ends");
    const places = [...heads].flatMap((head, place) => (isRead(head) ? [place] : []));
    const write = exactly ? writeInFull : text;
    const rows = [...table.tBodies[0].rows].map((row) => places.map((n) => write(row.cells[n])));
    return [places.map((place) => text(heads[place])), rows];
  };

  const asMarkdown = (table) => {
    const [heads, rows] = read(table);
    const line = (cells) => `| ${cells.map((cell) => cell.replace(/[\\|<*_`[\]$~]/g, "\\$&")).join(" | ")} |`;
    const rule = heads.map((_, place) => (place ? "---:" : "---"));
    return [line(heads), `| ${rule.join(" | ")} |`, ...rows.map(line)].join("\n");
  };

  const asLatex = (table) => {
    const signs = {
      "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
      "−": "$-$", "±": "$\\pm$", "<": "$<$", ">": "$>$", "–": "--", "→": "$\\to$", "↓": "$\\downarrow$",
    };
    const escape = (text) => text.replace(/[\\&%$#_{}~^−±<>–→↓]/g, (sign) => signs[sign] ?? `\\${sign}`);
    const [heads, rows] = read(table);
    const line = (cells) => `${cells.map(escape).join(" & ")} \\\\`;
    const begin = [
      "\\begin{table}\\centering", `\\caption{${escape(table.caption.textContent.trim())}}`,
      `\\begin{tabular}{l${"r".repeat(heads.length - 1)}}`, "\\toprule", line(heads), "\\midrule",
    ];
    const end = ["\\bottomrule", "\\end{tabular}", "\\end{table} % needs \\usepackage{booktabs}"];
    return [...begin, ...rows.map(line), ...end].join("\n");
  };

  const asCsv = (table) => {
    const [heads, rows] = read(table, true);
    const isFormula = (cell) => /^[\s'"]*[=+\-@＝＋－＠]/.test(cell) && /[^\d+\-−.%to ]/.test(cell);
    const quote = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
    const write = (cell) => quote(isFormula(cell) ? `'${cell}` : cell); // no spreadsheet runs it
    return [heads, ...rows].map((cells) => cells.map(write).join(",")).join("\n");
  };

  for (const table of document.querySelectorAll("table")) {
    const tools = addButtons(table.closest(".box"), "Copy as", {
      Markdown: () => copy(asMarkdown(table)),
      LaTeX: () => copy(asLatex(table)),
      CSV: () => copy(asCsv(table)),
    });
    const heads = table.tHead.rows;
    if (heads.length > 1 || heads[0].cells.length <= 5 || table.matches(".heat")) continue;
    const button = document.createElement("button");
    const fold = (isFolded) => {
      table.classList.toggle("few", isFolded);
      button.textContent = isFolded ? `All ${heads[0].cells.length} columns` : "Fewer columns";
      button.setAttribute("aria-expanded", String(!isFolded));
    };
    button.type = "button";
    button.addEventListener("click", () => fold(!table.matches(".few")));
    fold(true);
    tools.prepend(button, " · ");
  }

  // On its own a picture has no page around it: the colours of the light one, and a font.
  const standAlone = (svg) => {
    const light = document.styleSheets[0].cssRules[0].style;
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    const inner = svg.innerHTML
      .replace(/var\((--[\w-]+)\)/g, (_, name) => light.getPropertyValue(name).trim())
      .replaceAll("currentColor", light.getPropertyValue("--soft").trim());
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" `
      + `viewBox="0 0 ${width} ${height}" font-family="Helvetica, Arial, sans-serif">`
      + `<rect width="100%" height="100%" fill="#fff"/>${inner}</svg>`;
  };

  const savePng = async (svg, heading) => {
    const picture = new Image();
    picture.src = `data:image/svg+xml,${encodeURIComponent(standAlone(svg))}`;
    await picture.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * picture.width, 2 * picture.height];
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((png) => save(png, heading, "png"));
  };

  for (const chart of document.querySelectorAll(".chart")) {
    const svg = chart.querySelector("svg");
    const heading = chart.querySelector("strong").textContent;
    addButtons(chart.lastElementChild, "Save", {
      SVG: () => save(new Blob([standAlone(svg)], { type: "image/svg+xml" }), heading, "svg"),
      PNG: () => savePng(svg, heading),
      Data: () => save(
        new Blob([chart.querySelector(".data").content.textContent], { type: "text/csv" }),
        heading, "csv",
      ),
    });
  }
}
