// Recomputes this page's accuracies, differences, intervals and p values from the images that each
// network got right (the block outcomes.json), and compares them with the block verdict.json.
// The formulas are those of triptych/tools/statistics/crossed.py, which names their sources.
const check = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const mean = (values) => sum(values) / values.length;
  const variance = (values) => {
    const centre = mean(values);
    return sum(values.map((value) => (value - centre) ** 2)) / (values.length - 1);
  };

  // ln Γ(x), x > 0: Lanczos's approximation with g = 7 and 9 terms.
  const LANCZOS = [0.99999999999980993, 676.5203681218851, -1259.1392167224028,
    771.32342877765313, -176.61502916214059, 12.507343278686905, -0.13857109526572012,
    9.9843695780195716e-6, 1.5056327351493116e-7];
  const lnGamma = (x) => {
    const terms = LANCZOS.slice(1).map((c, n) => c / (x + n));
    const t = x + 6.5;
    return (x - 0.5) * Math.log(t) - t + Math.log(Math.sqrt(2 * Math.PI) * (LANCZOS[0] + sum(terms)));
  };

  // The regularized incomplete beta function I_x(a, b): its continued fraction, DLMF 8.17.22, by
  // Lentz's method.
  const incompleteBeta = (a, b, x) => {
    if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(b, a, 1 - x);
    const front = a * Math.log(x) + b * Math.log1p(-x) + lnGamma(a + b) - lnGamma(a) - lnGamma(b);
    let c = 1;
    let d = 1 / (1 - (a + b) * x / (a + 1));
    let fraction = d;
    for (let m = 1; m < 100000; m += 1) {
      const even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
      const odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
      const before = fraction;
      for (const term of [even, odd]) {
        d = 1 / (1 + term * d);
        c = 1 + term / c;
        fraction *= c * d;
      }
      if (Math.abs(fraction / before - 1) < 1e-15) break;
    }
    return Math.exp(front) * fraction / a;
  };

  // P(Z > z) of the normal law: Marsaglia's series (2004), far out Laplace's continued fraction.
  const normalTail = (z) => {
    if (z < 0) return 1 - normalTail(-z);
    const density = Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI);
    let value = 0;
    if (z > 3) {
      for (let n = 100; n > 0; n -= 1) value = n / (z + value);
      return density / (z + value);
    }
    for (let n = 1, term = z; n < 100; n += 1, term *= z * z / (2 * n - 1)) value += term;
    return 0.5 - density * value;
  };

  // P(T > t), t >= 0, of Student's law.
  const tail = (df, t) => (df === Infinity ? normalTail(t)
    : incompleteBeta(df / 2, 0.5, df / (df + t * t)) / 2);

  // The t >= 0 that is exceeded with probability p < 0.5, by halving.
  const quantile = (df, p) => {
    let [low, high] = [0, 1];
    while (tail(df, high) > p) [low, high] = [high, 2 * high];
    for (let n = 0; n < 60; n += 1) {
      const middle = (low + high) / 2;
      [low, high] = tail(df, middle) > p ? [middle, high] : [low, middle];
    }
    return (low + high) / 2;
  };

  // Exact two-sided McNemar test: twice the binomial tail, 1 without discordant images.
  const mcnemar = (onlyA, onlyB) => {
    const [fewer, discordant] = [Math.min(onlyA, onlyB), onlyA + onlyB];
    return discordant ? Math.min(1, 2 * incompleteBeta(discordant - fewer, fewer + 1, 0.5)) : 1;
  };

  // An estimate is { value, centre, variance, df, bounds }: crossed.py's Estimate.
  const interval = ({ centre, variance, df, bounds }, level) => {
    const half = variance ? quantile(df, (1 - level) / 2) * Math.sqrt(variance) : 0;
    return [Math.max(centre - half, bounds[0]), Math.min(centre + half, bounds[1])];
  };
  const pOf = ({ centre, variance, df }, truth) => {
    if (!variance) return Number(centre === truth);
    return 2 * tail(df, Math.abs(centre - truth) / Math.sqrt(variance));
  };

  // crossed.py, summarize_trainings: of the rows of a recipe's seeds, a value an image.
  const summarize = (rows) => {
    const [n, size] = [rows.length, rows[0].length];
    const byImage = rows[0].map((_, i) => sum(rows.map((row) => row[i])) / n);
    const bySeed = rows.map(mean);
    const centre = mean(byImage);
    const squares = rows.map((row, s) =>
      sum(row.map((value, i) => (value - byImage[i] - bySeed[s] + centre) ** 2)));
    const flips = sum(squares) / (n - 1) / Math.max(size - 1, 1);
    return { n, byImage, seedVariance: variance(bySeed), flips };
  };

  // crossed.py, _cross: images × seeds, with Satterthwaite's degrees of freedom.
  const cross = (byImage, recipes, bounds, added) => {
    const value = mean(byImage);
    if (byImage.length < 2) return { value, centre: value, variance: Infinity, df: Infinity, bounds };
    const sample = [...byImage, ...added];
    const repeated = recipes.filter(({ n }) => n > 1);
    const seed = repeated.map((each) => each.seedVariance / each.n);
    const flips = repeated.map((each) => each.flips / (byImage.length * each.n));
    const amongImages = variance(sample) / sample.length;
    const total = Math.max(amongImages - sum(flips), 0)
      + sum(seed.map((each, i) => Math.max(each, flips[i])));
    const squares = amongImages ** 2 / (sample.length - 1)
      + sum(seed.map((each, i) => each ** 2 / (repeated[i].n - 1)));
    return { value, centre: mean(sample), variance: total, bounds,
      df: squares > 0 ? total ** 2 / squares : Infinity };
  };

  // crossed.py, subtract_counts: two networks, by the interval of Bonett and Price (2012).
  const subtractCounts = (onlyA, onlyB, size) => {
    const [n, more] = [size + 2, onlyA - onlyB];
    return { value: more / size, centre: more / n, df: Infinity, bounds: [-1, 1],
      variance: ((onlyA + onlyB + 2) / n - (more / n) ** 2) / n, exact: mcnemar(onlyA, onlyB) };
  };

  // crossed.py, sum_by_group: values by group whose mean is that of the images.
  const sumByGroup = (row, groups) => {
    const centre = mean(row);
    const sums = Array(new Set(groups).size).fill(0);
    row.forEach((value, i) => { sums[groups[i]] += value - centre; });
    return sums.map((value) => value * sums.length / row.length + centre);
  };

  // Two recipes, or two networks: { rows, groups }.
  const subtract = (a, b) => {
    if (a.rows.length === 1 && b.rows.length === 1 && !a.groups) {
      const count = (one, other) => sum(one.map((right, i) => right * (1 - other[i])));
      const [one, other] = [a.rows[0], b.rows[0]];
      return subtractCounts(count(one, other), count(other, one), one.length);
    }
    const byImage = a.trainings.byImage.map((value, i) => value - b.trainings.byImage[i]);
    const found = (added) => cross(byImage, [a.trainings, b.trainings], [-1, 1], added);
    const pseudo = [1, -1]; // images that Bonett and Price add; of groups where nothing scatters
    return a.groups && found([]).variance ? found([]) : found(pseudo);
  };

  const holm = (ps) => {
    const adjusted = Array(ps.length);
    let most = 0;
    ps.map((p, place) => [p, place]).sort((a, b) => a[0] - b[0]).forEach(([p, place], rank) => {
      most = Math.max(most, p * (ps.length - rank));
      adjusted[place] = Math.min(most, 1);
    });
    return adjusted;
  };

  // pairs.py, adjust_in_margin: that a, and that b, is not worse than the other by the margin.
  const adjustInMargin = (found, margin) => {
    const both = found.map((each) => [
      each.centre > -margin ? pOf(each, -margin) : 1, each.centre < margin ? pOf(each, margin) : 1]);
    const smaller = holm(both.map((two) => Math.min(...two)));
    const larger = holm(both.map((two) => Math.max(...two)));
    return both.map((two, i) => two.map((p) => (p === Math.min(...two) ? smaller[i] : larger[i])));
  };

  // content.py, Pair.verdict.
  const decide = (difference, pAdjusted, notInferior) => {
    const better = difference >= 0 ? "a" : "b";
    if (pAdjusted < 0.05 && difference) return `${better}_better`;
    if (Math.max(...notInferior) < 0.05) return "equivalent";
    return Math.min(...notInferior) < 0.05 ? `${better}_not_inferior` : "undecided";
  };

  // What verdict.json says of the pairs of one table.
  const describePairs = (twos, level, margin) => {
    const found = twos.map(([a, b]) => subtract(a, b));
    const each = 1 - (1 - level) / Math.max(twos.length, 1);
    const ps = found.map((estimate) => estimate.exact ?? pOf(estimate, 0));
    const adjusted = holm(ps);
    const notInferior = margin === null ? null : adjustInMargin(found, margin);
    return found.map((estimate, i) => {
      const [low, high] = interval(estimate, each);
      return { difference: estimate.value, low, high, level: each, p: ps[i], p_adjusted: adjusted[i],
        p_not_inferior: notInferior && notInferior[i],
        verdict: decide(estimate.value, adjusted[i], notInferior ? notInferior[i] : [1, 1]) };
    });
  };

  const readNetworks = ({ networks, groups }) => networks.map((network) => {
    const bytes = Uint8Array.from(atob(network.correct), (letter) => letter.charCodeAt(0));
    const row = Array.from({ length: network.num_images },
      (_, i) => (bytes[i >> 3] >> (7 - i % 8)) & 1);
    return { ...network, row, groups: network.groups === null ? null : groups[network.groups] };
  });

  const join = (networks) => {
    const [{ groups }] = networks;
    const rows = networks.map(({ row }) => row);
    const values = groups ? rows.map((row) => sumByGroup(row, groups)) : rows;
    return { rows, groups, trainings: summarize(values) };
  };

  const TOLERANCE = { value: 1e-9, difference: 1e-9, level: 1e-9 }; // else of bounds and p values
  const isClose = (a, b, tolerance) => (typeof a === "number" && typeof b === "number"
    ? Math.abs(a - b) <= tolerance * Math.max(Math.abs(a), Math.abs(b)) + 1e-15 : a === b);
  const isEqual = (a, b, tolerance) => (Array.isArray(a) && Array.isArray(b)
    ? a.length === b.length && a.every((each, i) => isClose(each, b[i], tolerance))
    : isClose(a, b, tolerance));

  // Everything that follows from correctness alone, a row a value: { of, key, here, recomputed,
  // equal }; and what does not, in words.
  const recompute = (verdict, outcomes) => {
    const networks = readNetworks(outcomes);
    const [rows, left] = [[], []];
    const check = (of, said, found) => {
      for (const key of Object.keys(found).filter((each) => each in said)) {
        const [here, recomputed] = [said[key], found[key]];
        rows.push({ of, key, here, recomputed, equal: isEqual(here, recomputed, TOLERANCE[key] ?? 1e-6) });
      }
    };
    const names = [...new Set(networks.map(({ recipe }) => recipe))];
    const recipes = new Map(names.map((name) =>
      [name, join(networks.filter(({ recipe }) => recipe === name))]));
    const single = new Map(networks.map((network) => [network.name, join([network])]));
    const checkPairs = (pairs, byName, margin) => {
      const twos = pairs.map(({ a, b }) => [byName.get(a), byName.get(b)]);
      describePairs(twos, verdict.level, margin).forEach((each, i) =>
        check(`${pairs[i].a} − ${pairs[i].b}`, pairs[i], each));
    };
    const { scores, metric, margin, plan } = verdict;
    const isAccuracy = ({ metric: name }) => name === "accuracy";
    if (metric === "accuracy") {
      for (const run of verdict.runs) check(run.name, run, { value: mean(single.get(run.name).rows[0]) });
      const list = (kind) => verdict.pairs.filter((pair) => pair.kind === kind);
      checkPairs(list("networks"), single, margin);
      if (plan) left.push("pairs of recipes, tested at the looks of a plan");
      else checkPairs(list("recipes"), recipes, margin);
    } else left.push(`scores and pairs by ${metric}`);
    for (const said of scores ? scores.values.filter(isAccuracy) : []) {
      const { trainings } = recipes.get(said.recipe);
      const found = cross(trainings.byImage, [trainings], [0, 1], []);
      const [low, high] = interval(found, verdict.level);
      check(said.recipe, said, { value: found.value, low, high });
    }
    if (scores) checkPairs(scores.pairs.filter(isAccuracy), recipes, null);
    left.push(...(scores ? ["scores besides accuracy"] : []),
      ...["ranks", "components", "tuning", "suspects", "shifts", "abstention", "deployments"]
        .filter((name) => verdict[name]),
      ...(verdict.claims.length ? ["claims"] : []));
    return { rows, left };
  };

  const read = (id) => JSON.parse(document.getElementById(`${id}.json`).textContent);
  const add = (place, tag, text = "") => {
    place.append(Object.assign(document.createElement(tag), { textContent: text }));
    return place.lastChild;
  };
  const addTable = (place, caption, rows) => {
    const box = Object.assign(add(place, "div"), { className: "box", role: "region", tabIndex: 0 });
    box.setAttribute("aria-label", caption);
    const table = add(box, "table");
    add(table, "caption", caption);
    const head = add(add(table, "thead"), "tr");
    for (const name of ["of", "value", "on this page", "recomputed"]) add(head, "th", name).scope = "col";
    const body = add(table, "tbody");
    for (const { of, key, here, recomputed } of rows) {
      const line = add(body, "tr");
      add(line, "th", of).scope = "row";
      for (const value of [key, here, recomputed]) add(line, "td", [value].flat().join(", "));
    }
  };
  const show = (result, place) => {
    place.replaceChildren();
    try {
      const { rows, left } = recompute(read("verdict"), read("outcomes"));
      const differing = rows.filter(({ equal }) => !equal);
      const equal = rows.length ? `Recomputed: equal, ${rows.length} values.`
        : "No value of this page follows from correctness alone.";
      result.textContent = differing.length
        ? `Recomputed: ${differing.length} of ${rows.length} values differ.` : equal;
      if (differing.length) addTable(place, "Values that differ", differing);
      if (left.length) add(place, "p", `Not recomputed here: ${left.join(", ")}.`);
      const details = add(place, "details");
      add(details, "summary", "All recomputed values");
      addTable(details, "All recomputed values", rows);
    } catch (error) {
      result.textContent = `The data of this page cannot be read: ${error.message}`;
    }
  };
  const button = document.getElementById("recompute");
  if (button) {
    const [result, place] = ["recomputed", "recomputed-values"].map((id) => document.getElementById(id));
    button.hidden = false;
    button.addEventListener("click", () => show(result, place));
  }
  return { tail, quantile, mcnemar, subtractCounts, recompute };
})();
