// What moves: the figures, their legend, the order of the table, and the page's height in a notebook's frame.
// Invariant: the page is readable without any of it but the figures and pictures, and nothing is fetched.
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));

  // ---- pictures: each is in the page once
  const pictures = read("pictures");
  for (const image of all("img[data-picture]")) {
    const uri = pictures[image.dataset.picture];
    if (uri !== undefined) {
      image.src = uri;
    } else { // left out for the page's size
      const none = document.createElement("span");
      none.className = "none";
      none.textContent = "no picture";
      image.replaceWith(none);
    }
  }

  // ---- the table: a header's button sorts by it, once more the other way round
  const table = document.getElementById("runs");
  const sortBy = (header) => {
    const column = Array.from(header.parentNode.children).indexOf(header);
    const numeric = header.dataset.kind === "number";
    const before = header.getAttribute("aria-sort");
    // Numbers begin with the largest, texts with the first of the alphabet.
    const descending = before === null ? numeric : before === "ascending";
    const value = (row) => row.children[column].dataset.value;
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
      return descending ? -order : order;
    };
    table.tBodies[0].append(...Array.from(table.tBodies[0].rows).sort(compare));
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  for (const button of all("thead button", table)) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }

  // ---- the figures
  const { figures, limit, scores, runs } = read("data");
  // As build.py writes a point.
  const [EPOCH, SECONDS, STAGE, LOSS, SCORE, VAL_LOSS, VAL_SCORE, KEPT] = [0, 1, 2, 3, 4, 5, 6, 7];
  const plots = new Map(); // element -> view
  const hidden = new Set(); // numbers of rows
  const curves = () => Array.from(plots.values(), (view) => view.model).filter((plot) => plot.name !== "break-even");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const paint = (plot, onDark) => {
    const [text, line, back] = onDark ? ["#c5ccd3", "#343b44", "#14171b"] : ["#3b434b", "#e3e7eb", "#ffffff"];
    for (const axis of [...plot.below, ...plot.left]) {
      if (axis.axis_label_text_color === undefined) continue;
      axis.setv({
        axis_label_text_color: text, major_label_text_color: text, axis_line_color: text,
        major_tick_line_color: text,
      });
    }
    for (const part of plot.center) {
      if ("grid_line_color" in part) part.grid_line_color = line;
      if ("label_text_color" in part) part.label_text_color = text;
      if ("text_color" in part) part.setv({ text_color: text, background_fill_color: back, background_fill_alpha: 0.8 });
    }
  };

  // ---- the axis of time: linear or logarithmic, with the seconds of the extraction or without
  const counted = document.getElementById("counted");
  const axes = all("input[name='axis']");
  const logarithmic = () => axes.some((axis) => axis.checked && axis.value === "log");
  const clockOf = (run) => {
    const before = counted === null || counted.checked ? run.extraction : 0;
    return run.points.map((point) => before + point[SECONDS]);
  };

  const measureOf = (plot) => {
    const [measure, axis] = plot.name.split(" ");
    const loss = measure === "loss";
    const [train, val, scale] = loss ? [LOSS, VAL_LOSS, 1] : [SCORE, VAL_SCORE, scores[measure].share ? 100 : 1];
    // Of a run that is known by another score there is nothing to draw.
    const column = (run, of, by = 1) => (loss || run.score === measure ? run.points : []).map(
      (point) => (point[of] === null ? NaN : by * point[of]),
    );
    return {
      loss,
      fromZero: loss || !scores[measure].share,
      x: (run) => (axis === "epoch" ? column(run, EPOCH) : loss || run.score === measure ? clockOf(run) : []),
      scale,
      train: (run) => column(run, train, scale),
      val: (run) => column(run, val, scale),
    };
  };

  const number = (value, digits, unit = "") => (value === null ? "\u2013" : value.toFixed(digits) + unit);
  const percent = (share) => { // as share_text of common/text.py
    let digits = 1;
    while (digits < 4 && share > 0 && share < 1 && [0, 100].includes(Number((100 * share).toFixed(digits)))) digits += 1;
    return `${(100 * share).toFixed(digits)}\u00a0%`;
  };
  const scored = (run, value) => {
    const { words, share } = scores[run.score];
    if (value !== null && !share) return `, ${words} ${Number(value.toPrecision(4))}`;
    return `, ${words} ${value === null ? "\u2013" : percent(value)}`;
  };
  const plain = (loss) => { // as plain_text of common/text.py: nearly 0 or 1 is neither
    if (loss === null || loss === 0) return number(loss, 4);
    if (Math.abs(loss) < 0.00005) return loss.toPrecision(2);
    let digits = 4;
    while (digits < 8 && loss < 1 && Number(loss.toFixed(digits)) === 1) digits += 1;
    return loss.toFixed(digits);
  };
  const said = (run, loss, score) =>
    `loss ${plain(loss)}${score === null && run.score !== "accuracy" ? "" : scored(run, score)}`;
  const when = (point, end) => { // `end`: as the axis of time counts
    const seconds = end >= 100 ? end.toFixed(0) : Number(end.toPrecision(3));
    const stage = point[STAGE] === "head" ? " (head alone)" : "";
    return `epoch ${point[EPOCH]}${stage}${point[KEPT] ? ", kept" : ""}, ${seconds}\u00a0s`;
  };

  const fill = (plot) => {
    const of = measureOf(plot);
    const lines = (ys) => ({ row: runs.map((_, i) => i), xs: runs.map(of.x), ys: runs.map(ys), colour: runs.map((r) => r.colour) });
    const names = ["row", "x", "y", "colour", "fill", "marker", "size", "label", "when", "validation", "training"];
    const points = Object.fromEntries(names.map((name) => [name, []]));
    const kept = { row: [], x: [], y: [], colour: [] };
    const interval = { row: [], x: [], low: [], high: [], colour: [] };
    runs.forEach((run, row) => {
      const ends = clockOf(run);
      const [x, train, val] = [of.x(run), of.train(run), of.val(run)];
      if (x.length === 0) return;
      const validated = val.some(Number.isFinite);
      const add = (ys, filled) => run.points.forEach((point, i) => {
        const values = [
          row, x[i], ys[i], run.colour, filled ? run.colour : "rgba(0,0,0,0)", run.marker,
          run.points.length > 40 ? 4 : 7, run.label, when(point, ends[i]), // many markers are no band
          said(run, point[VAL_LOSS], point[VAL_SCORE]), said(run, point[LOSS], point[SCORE]),
        ];
        names.forEach((name, n) => points[name].push(values[n]));
      });
      if (validated) add(val, true);
      if (!validated || x.length === 1) add(train, false); // a line through one point is none
      run.points.forEach((point, i) => {
        if (!point[KEPT]) return;
        const mark = { row, x: x[i], y: (validated ? val : train)[i], colour: run.colour };
        Object.entries(mark).forEach(([name, value]) => kept[name].push(value));
        // The score's interval is of the head that the run has: of the last stage.
        if (of.loss || !Number.isFinite(val[i]) || run.interval === null || point[STAGE] !== "all") return;
        const [low, high] = run.interval.map((end) => of.scale * end);
        const line = { row, x: x[i], low, high, colour: run.colour };
        Object.entries(line).forEach(([name, value]) => interval[name].push(value));
      });
    });
    const data = { training: lines(of.train), validation: lines(of.val), points, kept, interval };
    for (const renderer of plot.renderers) renderer.data_source.data = data[renderer.name];
  };

  // Of a logarithmic axis: tenths of decades, halves or whole ones, as many as there is room for.
  const ticksOf = (low, high) => {
    const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    const decades = Math.log10(high / low);
    const steps = decades < 0.8 ? [1, 1.5, 2, 3, 4, 5, 7] : decades < 3 ? [1, 2, 5] : [1];
    const all = Array.from({ length: last - first + 1 }, (_, i) => steps.map((step) => Number(`${step}e${first + i}`)));
    const ticks = all.flat().filter((tick) => low <= tick && tick <= high);
    if (ticks.length > 1) return ticks;
    const least = (high - low) / 4; // a stretch that is nearly linear
    const power = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].map((times) => times * power).find((width) => width >= least);
    const [from, to] = [Math.ceil(low / step), Math.floor(high / step)];
    return Array.from({ length: to - from + 1 }, (_, i) => Number(((from + i) * step).toPrecision(12)));
  };
  const setRange = (range, start, end) => range.setv({ start, end, reset_start: start, reset_end: end });

  const show = (plot) => {
    for (const renderer of plot.renderers) {
      renderer.view.filter.booleans = renderer.data_source.data.row.map((row) => !hidden.has(row));
    }
    const of = measureOf(plot);
    const shown = runs.filter((_, row) => !hidden.has(row));
    const log = plot.name.endsWith(" seconds") && logarithmic();
    const xs = shown.flatMap(of.x).filter((x) => !log || x > 0);
    const ends = shown.flatMap((run) => (of.loss || of.x(run).length === 0 ? [] : run.interval ?? []));
    const ys = [
      ...shown.flatMap((run) => [...of.train(run), ...of.val(run)]), ...ends.map((end) => of.scale * end),
    ].filter(Number.isFinite);
    if (xs.length === 0) return;
    // Room beside the outermost points, so that no marker is cut in half.
    const [least, last] = [Math.min(...xs), Math.max(...xs)];
    if (log) {
      const room = Math.max(1.05, (last / least) ** 0.04);
      setRange(plot.x_range, least / room, last * room);
      plot.below[0].ticker.ticks = ticksOf(least / room, last * room);
    } else if (plot.name.endsWith(" seconds")) {
      setRange(plot.x_range, -0.02 * (last || 1), 1.04 * (last || 1));
    } else {
      const room = 0.04 * (last - least) || 1;
      setRange(plot.x_range, least - room, last + room);
    }
    if (ys.length === 0) {
      setRange(plot.y_range, 0, 1);
    } else if (of.fromZero && Math.min(...ys) >= 0) {
      setRange(plot.y_range, 0, Math.min((of.loss ? limit : null) ?? Infinity, 1.06 * (Math.max(...ys) || 1)));
    } else {
      const [low, high] = [Math.min(...ys), Math.max(...ys)];
      const room = 0.05 * (high - low) || 1;
      setRange(plot.y_range, low - room, high + room);
    }
  };

  const legend = document.getElementById("legend");
  const update = () => {
    for (const group of all("div", legend)) {
      const keys = all(".key", group);
      for (const key of keys) key.setAttribute("aria-pressed", String(!hidden.has(Number(key.dataset.row))));
      for (const whole of all(".group", group)) {
        whole.setAttribute("aria-pressed", String(keys.some((key) => !hidden.has(Number(key.dataset.row)))));
      }
    }
    for (const plot of curves()) show(plot);
  };
  const toggle = (rows) => {
    const hide = rows.some((row) => !hidden.has(row));
    for (const row of rows) hide ? hidden.add(row) : hidden.delete(row);
    update();
  };
  if (legend !== null) {
    for (const key of all(".key", legend)) key.addEventListener("click", () => toggle([Number(key.dataset.row)]));
    for (const group of all(".group", legend)) {
      group.addEventListener("click", () => toggle(all(".key", group.parentNode).map((key) => Number(key.dataset.row))));
    }
  }

  // Bokeh outlines what has the focus by faint dots; the page's own style does not reach into its shadow trees.
  const focus = new CSSStyleSheet();
  focus.replaceSync(`:focus-visible, :host(:focus-visible) {
    outline: 2px solid var(--link) !important; outline-offset: -2px !important;
  }`);
  const outlined = (root) => {
    for (const element of all("*", root)) {
      if (element.shadowRoot === null) continue;
      element.shadowRoot.adoptedStyleSheets.push(focus);
      outlined(element.shadowRoot);
    }
  };

  const isOfTime = (element) => element.dataset.figure.endsWith(" seconds");
  const draw = async (element) => {
    const item = figures[element.dataset.figure + (isOfTime(element) && logarithmic() ? " log" : "")];
    const [view] = await Bokeh.embed.embed_item(item, element);
    plots.set(element, view);
    outlined(element);
    paint(view.model, dark.matches);
  };
  const refill = () => {
    for (const plot of curves()) {
      fill(plot);
      show(plot);
    }
  };
  // A figure cannot change the kind of its axis: another takes its place.
  const redraw = async (element) => {
    const before = plots.get(element);
    element.style.height = `${element.clientHeight}px`; // the page below it stays where it is
    Bokeh.documents.splice(Bokeh.documents.indexOf(before.model.document), 1);
    before.remove();
    element.replaceChildren();
    await draw(element);
    element.style.height = "";
  };
  let pending = Promise.resolve(); // one after the other, however quickly they are asked for
  for (const axis of axes) {
    axis.addEventListener("change", () => {
      pending = pending.then(() => Promise.all(all(".plot").filter(isOfTime).map(redraw))).then(refill);
    });
  }
  counted?.addEventListener("change", () => { pending = pending.then(refill); });
  const drawn = Promise.all(all(".plot").map(draw)).then(refill);
  dark.addEventListener("change", () => {
    for (const view of plots.values()) paint(view.model, dark.matches);
  });

  // ---- paper: figures are as wide as the window was, so copies that shrink are printed, in light colours
  const copyOf = (view) => {
    const { canvas } = view.export("png");
    const scale = canvas.width / view.bbox.width;
    const above = Math.max(0, view.frame.bbox.top - 8) * scale; // where the tools are
    const copy = document.createElement("canvas");
    [copy.width, copy.height, copy.className] = [canvas.width, canvas.height - above, "printed"];
    copy.style.width = `${view.bbox.width}px`;
    copy.getContext("2d").drawImage(canvas, 0, -above);
    return copy;
  };
  addEventListener("beforeprint", () => {
    for (const [element, view] of plots) {
      paint(view.model, false);
      element.after(copyOf(view));
    }
  });
  addEventListener("afterprint", () => {
    for (const copy of all("canvas.printed")) copy.remove();
    for (const view of plots.values()) paint(view.model, dark.matches);
  });

  // ---- a notebook's frame is as high as the page; alone, and in frames of other sites, there is none to set
  const around = window.frameElement;
  if (around !== null) {
    const fit = () => { around.style.height = `${Math.ceil(document.documentElement.getBoundingClientRect().height)}px`; };
    new ResizeObserver(fit).observe(document.documentElement);
    fit();
  }

  drawn.then(() => { document.documentElement.dataset.ready = "yes"; });
})();
