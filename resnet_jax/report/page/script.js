"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  // Okabe and Ito's colours; on dark paper the same hues, lighter.
  const PALETTE = {
    light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"],
    dark: ["#4DA3DB", "#F08A4B", "#2FC39A", "#E09CC4", "#F0B93A", "#8CCBF0", "#FFFFFF"],
  };
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "cross"];
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const isDark = () => scheme.matches && !printing;
  const colour = (group) => {
    const palette = PALETTE[isDark() ? "dark" : "light"];
    return palette[group.colour % palette.length];
  };
  const faint = (hex, alpha) =>
    "rgba(" + [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",") + "," + alpha + ")";
  // Plotly reads a few HTML tags in names; here names are text.
  const text = (s) => s.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const config = {
    responsive: true, displaylogo: false, typesetMath: false,
    displayModeBar: window.innerWidth < 600 ? false : "hover",
    showSendToCloud: false, plotlyServerURL: "",  // nothing leaves this page
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  };

  function layout(more) {
    const dark = isDark();
    const ink = dark ? "#e6e8eb" : "#1c1f23";
    const line = dark ? "#353b43" : "#d8dce1";
    const axis = {
      gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true,
      title: { standoff: 8 },
    };
    const merged = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, sans-serif" },
      margin: { l: 48, r: 12, t: 34, b: 44 }, hovermode: "closest",
      hoverlabel: { namelength: -1 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: dark ? "#a0a7b0" : "#5b626b", activecolor: ink },
      ...more,
    };
    for (const name of ["xaxis", "yaxis"]) {
      const own = (more && more[name]) || {};
      merged[name] = { ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } };
    }
    return merged;
  }

  function smooth(values, width) {
    if (width < 1) return values;
    return values.map((value, i) => {
      if (value === null) return null;
      // As far on either side as the ends allow, so that the ends themselves stay.
      const reach = Math.min(width, i, values.length - 1 - i);
      let sum = 0, count = 0;
      for (let j = i - reach; j <= i + reach; j++) {
        if (values[j] !== null) { sum += values[j]; count++; }
      }
      return sum / count;
    });
  }

  const shownGroups = new Set(data.groups.keys());
  const shownRuns = new Set(data.runs.keys());
  const checked = (id) => $(id).checked;

  function traces(family, metric, width) {
    const made = [];
    data.groups.forEach((group, g) => {
      if (group.family !== family || !shownGroups.has(g)) return;
      for (const split of ["train", "val", "test"]) {
        if (!checked("show-" + split)) continue;
        const key = split + "/" + metric;
        const dash = { train: "dash", val: "dot", test: "solid" }[split];
        const base = {
          type: "scatter", mode: "lines", legendgroup: group.label, showlegend: false,
          connectgaps: false,
        };
        const curve = group.curves[key];
        if (checked("show-mean") && curve) {
          if (curve.low) {
            made.push({
              ...base, x: curve.x.concat(curve.x.slice().reverse()),
              y: smooth(curve.high, width).concat(smooth(curve.low, width).slice().reverse()),
              fill: "toself", fillcolor: faint(colour(group), 0.16), line: { width: 0 },
              hoverinfo: "skip", kind: "band",
            });
          }
          made.push({
            ...base, x: curve.x, y: smooth(curve.y, width), kind: "mean",
            name: text(group.label + ", " + split + ", mean of " + group.n),
            line: { color: colour(group), dash, width: split === "train" ? 1.4 : 2.4 },
          });
        }
        for (const r of group.runs) {
          const run = data.runs[r];
          const alone = run.state !== "completed";
          if (!shownRuns.has(r) || !run.curves[key] || !(alone || checked("show-seeds"))) continue;
          made.push({
            ...base, x: run.curves[key].x, y: smooth(run.curves[key].y, width), kind: "seed",
            name: text(run.name + ", " + split + (alone ? ", " + run.state : "")),
            line: { color: colour(group), dash: alone ? "dashdot" : dash, width: 1 },
            opacity: alone ? 1 : 0.65,
          });
        }
      }
    });
    return made;
  }

  function highest(all) {
    let top = 0;
    for (const trace of all) {
      const from = trace.x.length ? 0.05 * Math.max(...trace.x) : 0;
      trace.y.forEach((y, i) => { if (y !== null && trace.x[i] > from && y > top) top = y; });
    }
    return top;
  }

  function drawCurves() {
    const metric = $("metric").value, width = Number($("smoothing").value);
    $("smoothing-value").textContent = width ? "\u00b1" + width + " points" : "off";
    const sets = Object.keys(data.families)
      .filter((family) => $("curves-" + family))
      .map((family) => [family, traces(family, metric, width)]);
    const log = checked("log");
    let top = 1.05 * Math.max(...sets.map(([, all]) => highest(all)));
    if (metric === "error") top = Math.min(top, 100);
    for (const [family, all] of sets) {
      const yaxis = { title: { text: data.metrics[metric] }, rangemode: "tozero" };
      if (log) yaxis.type = "log";
      else if (top > 0) yaxis.range = [0, top];
      Plotly.react($("curves-" + family), all, layout({
        title: { text: data.families[family], font: { size: 14 }, x: 0.02, xanchor: "left" },
        xaxis: { title: { text: "iteration" }, rangemode: "tozero" }, yaxis,
      }), config);
    }
  }

  // Where labels differ in more than family and depth, each has a place of its own.
  const place = (g) => (data.repeated ? text(g.label) : String(g.depth));

  function drawDepths() {
    if (!$("depths")) return;
    const made = [];
    const looks = { plain: ["square", 1, "dash"], residual: ["circle", 0, "solid"] };
    for (const family of Object.keys(data.families)) {
      for (const split of ["train", "test"]) {
        const there = data.groups.filter((g) => g.family === family && g.final[split]);
        if (!there.length) continue;
        const [symbol, index, dash] = looks[family];
        const palette = PALETTE[isDark() ? "dark" : "light"];
        made.push({
          type: "scatter", mode: there.length > 1 && !data.repeated ? "lines+markers" : "markers",
          name: family + ", " + (split === "train" ? "training" : "test"),
          x: there.map(place), y: there.map((g) => g.final[split].mean),
          text: there.map((g) => text(g.label + ", n = " + g.n + (g.band ? ", " + g.band : ""))),
          error_y: {
            type: "data", array: there.map((g) => g.final[split].high),
            arrayminus: there.map((g) => g.final[split].low), thickness: 1.2,
          },
          marker: { symbol: split === "train" ? symbol + "-open" : symbol, size: 9 },
          line: { color: palette[index], dash, width: split === "train" ? 1.2 : 2 },
        });
        made[made.length - 1].marker.color = palette[index];
      }
    }
    const sorted = data.groups.slice().sort((a, b) => a.depth - b.depth);
    const places = [...new Set(sorted.map(place))];
    Plotly.react($("depths"), made, layout({
      xaxis: {
        type: "category", categoryorder: "array", categoryarray: places,
        title: { text: data.repeated ? "label" : "depth (layers)" },
      },
      yaxis: { title: { text: "final error (%)" }, rangemode: "tozero" },
    }), config);
  }

  function cell(row, content, kind) {
    const td = document.createElement(kind === "head" ? "th" : "td");
    td.textContent = content;
    if (kind === "number") td.className = "number";
    row.appendChild(td);
  }

  function drawClasses() {
    if (!$("classes")) return;
    const [r, name] = JSON.parse($("class-run").value);
    const split = data.runs[r].splits[name];
    const body = $("classes").tBodies[0];
    body.replaceChildren();
    split.classes.forEach((label, i) => {
      const row = body.insertRow();
      cell(row, label, "head");
      split.rows[i].forEach((value, j) => {
        const shown = value === null ? "undefined" : j < 3 ? value.toFixed(3) : String(value);
        cell(row, shown, "number");
      });
    });
    const shares = split.matrix.map((row) => {
      const sum = row.reduce((a, b) => a + b, 0);
      return row.map((count) => (sum ? count / sum : null));
    });
    const names = split.classes.map(text);
    const few = names.length <= 20;
    Plotly.react($("confusion"), [{
      type: "heatmap", z: shares, x: names, y: names, zmin: 0, zmax: 1,
      text: split.matrix, texttemplate: few ? "%{text}" : "", textfont: { size: 10 },
      hovertemplate: "true %{y}<br>predicted %{x}<br>%{text} images, %{z:.1%} of the class<extra></extra>",
      colorscale: isDark()
        ? [[0, "#1e2228"], [1, "#4DA3DB"]] : [[0, "#ffffff"], [1, "#0072B2"]],
      showscale: false, xgap: 1, ygap: 1,
    }], layout({
      xaxis: { type: "category", title: { text: "predicted" }, tickangle: -45 },
      yaxis: { type: "category", title: { text: "true" }, autorange: "reversed" },
      margin: { l: 48, r: 12, t: 12, b: 44 },
    }), config);
  }

  function controls() {
    const box = $("groups");
    data.groups.forEach((group, g) => {
      const item = document.createElement("span");
      item.className = "group";
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "checkbox";
      input.checked = true;
      input.dataset.group = g;
      input.addEventListener("change", () => {
        if (input.checked) shownGroups.add(g); else shownGroups.delete(g);
        drawCurves();
      });
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.dataset.swatch = g;
      const note = group.diverged ? ", " + group.diverged + " diverged" : "";
      label.append(input, swatch, group.label + (group.n ? " (n = " + group.n + note + ")" : note));
      const seeds = document.createElement("span");
      seeds.className = "seeds";
      for (const r of group.runs) {
        const one = document.createElement("label");
        const tick = document.createElement("input");
        tick.type = "checkbox";
        tick.checked = true;
        tick.dataset.run = r;
        tick.addEventListener("change", () => {
          if (tick.checked) shownRuns.add(r); else shownRuns.delete(r);
          drawCurves();
        });
        one.append(tick, "seed " + data.runs[r].seed);
        seeds.append(one);
      }
      item.append(label, seeds);
      box.append(item);
    });
    for (const id of ["show-train", "show-val", "show-test", "show-mean", "show-seeds", "log"]) {
      $(id).addEventListener("change", () => { seedBoxes(); drawCurves(); });
    }
    $("metric").addEventListener("change", drawCurves);
    $("smoothing").addEventListener("input", drawCurves);
    for (const [id, value] of [["all", true], ["none", false]]) {
      $(id).addEventListener("click", () => {
        document.querySelectorAll("[data-group]").forEach((input) => {
          input.checked = value;
          if (value) shownGroups.add(Number(input.dataset.group)); else shownGroups.clear();
        });
        drawCurves();
      });
    }
    seedBoxes();
  }

  function seedBoxes() {
    document.querySelectorAll(".seeds").forEach((box) => {
      box.style.display = checked("show-seeds") ? "" : "none";
    });
  }

  function classChoice() {
    if (!$("classes")) return;
    data.runs.forEach((run, r) => {
      for (const split of Object.keys(run.splits).sort((a, b) => (a === "test" ? -1 : b === "test" ? 1 : 0))) {
        const option = document.createElement("option");
        option.value = JSON.stringify([r, split]);
        option.textContent = run.name + ", " + split + ", step " + run.splits[split].step;
        $("class-run").append(option);
      }
    });
    $("class-run").addEventListener("change", drawClasses);
  }

  function draw() {
    document.querySelectorAll("[data-swatch]").forEach((swatch) => {
      swatch.style.background = colour(data.groups[Number(swatch.dataset.swatch)]);
    });
    if ($("metric")) drawCurves();
    drawDepths();
    drawClasses();
  }

  const seen = new Set(data.groups.map((g) => g.family + g.depth));
  data.repeated = seen.size < data.groups.length;
  if ($("metric")) controls();
  classChoice();
  draw();
  scheme.addEventListener("change", draw);
  window.addEventListener("beforeprint", () => { printing = true; draw(); });
  window.addEventListener("afterprint", () => { printing = false; draw(); });
  document.documentElement.dataset.ready = "yes";
})();
