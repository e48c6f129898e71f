"use strict";
// One run's evaluation: findings, measures, confusion, curves, calibration, operating points.
(function () {
  const { data, $, text, config, layout, checked, isDark } = page;
  if (!$("evaluation")) return;

  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];

  function add(row, content, kind) {
    const cell = document.createElement(kind === "head" ? "th" : "td");
    cell.textContent = content;
    if (kind === "number") cell.className = "number";
    row.append(cell);
    return cell;
  }

  // A value with its interval below it, small.
  function addWithInterval(row, [value, interval]) {
    const cell = add(row, value, "number");
    if (!interval) return;
    const small = document.createElement("small");
    small.textContent = interval;
    cell.append(document.createElement("br"), small);
  }

  function rows(id, items, fill) {
    const body = $(id).tBodies[0];
    body.replaceChildren();
    for (const item of items) fill(body.insertRow(), item);
  }

  function chosen() {
    const [r, name] = JSON.parse($("class-run").value);
    return [data.runs[r].evaluation, data.runs[r].evaluation.splits[name]];
  }

  function drawTables(evaluation, split) {
    // A report on one run has them at its top already.
    if ($("run-findings")) $("run-findings").replaceChildren(...evaluation.findings.map(([level, subject, words]) => {
      const item = document.createElement("li");
      item.className = level;
      const strong = document.createElement("strong");
      strong.textContent = subject + ".";
      item.append(strong, " " + words);
      return item;
    }));
    rows("summary", split.summary, (row, [name, value, interval, note]) => {
      add(row, name, "head");
      add(row, value, "number");
      add(row, interval);
      add(row, note);
    });
    $("undefined").textContent = split.undefined.length
      ? "Undefined: " + split.undefined.join("; ") + "." : "";
    rows("classes", split.classes.map((label, i) => [label, split.rows[i]]), (row, [label, values]) => {
      add(row, label, "head");
      values.slice(0, 5).forEach((value) => addWithInterval(row, value));
      add(row, values[5], "number");
    });
  }

  function drawConfusion(split) {
    const shares = split.matrix.map((row) => {
      const sum = row.reduce((a, b) => a + b, 0);
      return row.map((count) => (sum ? count / sum : null));
    });
    const names = split.classes.map(text);
    const few = names.length <= 20;
    const rates = shares.map((row) => row.map((x) => (x === null ? "" : (100 * x).toFixed(1))));
    Plotly.react($("confusion"), [{
      type: "heatmap", z: shares, x: names, y: names, zmin: 0, zmax: 1,
      text: checked("as-rates") ? rates : split.matrix, customdata: split.matrix,
      texttemplate: few ? "%{text}" : "", textfont: { size: 10 },
      hovertemplate: "true %{y}<br>predicted %{x}<br>%{customdata} images, %{z:.1%} of the class<extra></extra>",
      colorscale: isDark()
        ? [[0, "#1e2228"], [1, "#4DA3DB"]] : [[0, "#ffffff"], [1, "#0072B2"]],
      showscale: false, xgap: 1, ygap: 1,
    }], layout({
      xaxis: { type: "category", title: { text: "predicted" }, tickangle: -45 },
      yaxis: { type: "category", title: { text: "true" }, autorange: "reversed" },
      margin: { l: 48, r: 12, t: 12, b: 44 },
    }), config);
  }

  const SQUARE = { range: [0, 1.005], constrain: "domain" };

  function drawLines(id, split, key, x, y, diagonal) {
    const palette = page.palette();
    const made = split.curves.map((curve, i) => ({
      type: "scatter", mode: "lines", name: text(curve.name), x: curve[key].x, y: curve[key].y,
      line: {
        color: palette[i % palette.length], width: 1.8,
        dash: DASHES[Math.floor(i / palette.length) % DASHES.length],
        shape: key === "pr" ? "hv" : "linear",
      },
    }));
    if (diagonal && made.length) {
      made.push({
        type: "scatter", mode: "lines", name: "chance", x: [0, 1], y: [0, 1], hoverinfo: "skip",
        line: { color: isDark() ? "#a0a7b0" : "#5b626b", width: 1, dash: "dot" },
      });
    }
    $(id).parentElement.style.display = made.length ? "" : "none";
    if (!made.length) return;
    Plotly.react($(id), made, layout({
      xaxis: { ...SQUARE, title: { text: x } }, yaxis: { ...SQUARE, title: { text: y } },
      margin: { l: 48, r: 12, t: 12, b: 44 },
      legend: { orientation: "h", y: -0.2, yanchor: "top", font: { size: 11 } },
    }), config);
  }

  function drawReliability(split) {
    $("reliability").parentElement.style.display = split.bins.length ? "" : "none";
    if (!split.bins.length) return;
    const [first, second] = page.palette();
    const grey = isDark() ? "#a0a7b0" : "#5b626b";
    const x = split.bins.map((bin) => bin.confidence);
    Plotly.react($("reliability"), [
      {
        type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], hoverinfo: "skip",
        name: "calibrated", line: { color: grey, width: 1, dash: "dot" },
      },
      {
        type: "scatter", mode: "lines+markers", name: "measured", x,
        y: split.bins.map((bin) => bin.accuracy), line: { color: first, width: 1.8 },
        marker: { size: 7 }, text: split.bins.map((bin) => bin.examples + " images"),
      },
      {
        type: "bar", name: "images", x, y: split.bins.map((bin) => bin.examples), yaxis: "y2",
        marker: { color: second, opacity: 0.7 }, width: 0.02,
      },
    ], layout({
      xaxis: { range: [0, 1.005], anchor: "y2", title: { text: "stated probability of the predicted class" } },
      yaxis: { range: [0, 1.005], domain: [0.3, 1], title: { text: "share that is right" } },
      yaxis2: {
        domain: [0, 0.2], rangemode: "tozero", automargin: true, title: { text: "images" },
        gridcolor: "rgba(0,0,0,0)", nticks: 3,
      },
      margin: { l: 48, r: 12, t: 12, b: 44 }, showlegend: false,
    }), config);
  }

  function drawPoints(evaluation) {
    $("operating-points").style.display = evaluation.points.length ? "" : "none";
    const item = evaluation.points[Number($("point-class").value)];
    if (!item) return;
    const on = $("point-split").value;
    $("point-words").textContent =
      "Positive: " + item.class + ". A missed one costs " + item.costs[0] + ", a false alarm "
      + item.costs[1] + "; cost is per image. Thresholds with a name are chosen on val; test is only measured.";
    rows("points", item.rows, (row, point) => {
      if (!/^[0-9.]+$/.test(point.name)) row.className = "chosen";
      add(row, /^[0-9.]+$/.test(point.name) ? "" : point.name, "head");
      add(row, point.threshold === null ? "-" : point.threshold.toPrecision(4), "number");
      if (!point[on]) {
        add(row, point.reason || "nothing is called positive").colSpan = 8;
        return;
      }
      point[on].forEach((value, i) => {
        add(row, value === null ? "-" : i < 4 ? value : value.toFixed(3), "number");
      });
    });
  }

  function draw() {
    const [evaluation, split] = chosen();
    drawTables(evaluation, split);
    drawConfusion(split);
    drawLines("roc", split, "roc", "false positive rate", "true positive rate", true);
    drawLines("precision-recall", split, "pr", "recall", "precision", false);
    drawReliability(split);
    drawPoints(evaluation);
  }

  function option(select, value, words) {
    const one = document.createElement("option");
    one.value = value;
    one.textContent = words;
    select.append(one);
  }

  function choosePoints() {
    $("point-class").replaceChildren();
    chosen()[0].points.forEach((item, i) => option($("point-class"), i, item.class));
  }

  const testFirst = (a, b) => (a === "test" ? -1 : b === "test" ? 1 : 0);
  data.runs.forEach((run, r) => {
    if (!run.evaluation) return;
    for (const split of Object.keys(run.evaluation.splits).sort(testFirst)) {
      option($("class-run"), JSON.stringify([r, split]), run.name + ", " + split + ", step " + run.evaluation.step);
    }
  });
  if (!$("class-run").options.length) {
    $("evaluation").style.display = "none";
    return;
  }
  choosePoints();
  $("class-run").addEventListener("change", () => { choosePoints(); draw(); });
  $("as-rates").addEventListener("change", draw);
  for (const id of ["point-class", "point-split"]) {
    $(id).addEventListener("change", () => drawPoints(chosen()[0]));
  }
  page.draws.push(draw);
})();
