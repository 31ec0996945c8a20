// The page `Try it`: choose a picture, and see it as it came, purified, what was taken away, and what it is taken for.
import { fitted, open, predict, read } from "./pipeline.js";

const STRENGTH = 4; // of the difference that is shown
const top = document.getElementById("try");
const percent = share => `${(100 * share).toFixed(1)}%`;
const $ = name => top.querySelector(`[data-is="${name}"]`);

/** Make an element of a name, properties and children. */
function made(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function part(name, is, properties = {}, ...children) {
  const element = made(name, properties, ...children);
  element.dataset.is = is;
  return element;
}

function choices(name, legend, options) {
  const labels = options.map(([value, ...shown], i) =>
    made("label", {}, made("input", { type: "radio", name, value, checked: i === 0 }), ...shown));
  return part("fieldset", name, {}, made("legend", { textContent: legend }), ...labels);
}

function figure(is, caption) {
  return made("figure", {}, part("canvas", is, { role: "img" }), made("figcaption", { textContent: caption }));
}

function counted({ attacked: { images, alone, purified } }) {
  return `Of the ${images} attacked images of the golden set the classifier alone has ${alone} right, ` +
    `behind the purifier ${purified}.`;
}

function page({ class_names: names }, { examples, right }) {
  const thumbs = examples.map(({ place, label }) => [
    place,
    made("img", { src: new URL(`examples/${place}-clean.png`, import.meta.url).href, alt: "", width: 28, height: 28 }),
    made("span", { textContent: names[label] }),
  ]);
  const file = part("input", "file", { type: "file", accept: "image/*" });
  const head = ["class", "classifier alone", "behind the purifier"].map(textContent =>
    made("th", { scope: "col", textContent }));
  return [
    choices("example", "An example", thumbs),
    choices("kind", "It comes", [["attacked", "attacked"], ["clean", "clean"]]),
    part("label", "drop", {}, "Or drop a picture of yours here, or choose one: ", file),
    part("p", "said", { role: "status" }),
    part("div", "answer", { hidden: true },
      made("div", { className: "try-figures" }, figure("image", "As it came"), figure("purified", "Purified"),
        figure("taken", `What was taken away, ${STRENGTH} times as strong; grey is nothing`)),
      part("p", "suspicion"),
      made("div", { className: "try-scale", ariaHidden: "true" }, part("span", "score"), made("i")),
      made("table", {}, made("caption", { textContent: "What it is taken for" }),
        made("thead", {}, made("tr", {}, ...head)), part("tbody", "classes")),
      part("p", "time")),
    part("p", "golden", { textContent: counted(right) }),
  ];
}

/** Draw pixels `[H, W, C]` in [0, 1], or grey plus so much. */
function draw(is, pixels, { channels, height, width }, described) {
  const canvas = Object.assign($(is), { width, height, ariaLabel: described });
  const shown = new ImageData(width, height);
  shown.data.forEach((_, i) => {
    const channel = i % 4;
    const value = pixels[Math.floor(i / 4) * channels + Math.min(channel, channels - 1)];
    shown.data[i] = channel === 3 ? 255 : Math.round(255 * value);
  });
  canvas.getContext("2d").putImageData(shown, 0, 0);
}

function cell(share) {
  const bar = made("span", { className: "try-bar" });
  bar.style.width = percent(share);
  return made("td", {}, made("b", { textContent: percent(share) }), bar);
}

function show({ manifest }, found, label) {
  const { class_names: names, input, suspicion: { threshold } } = manifest;
  const first = shares => shares.indexOf(Math.max(...shares));
  const [before, after] = [found.before, found.after].map(first);
  const said = answer => `${names[answer]}${label === undefined ? "" : answer === label ? " (right)" : " (wrong)"}`;
  $("said").textContent = `The classifier alone says ${said(before)}, behind the purifier ${said(after)}.`;
  draw("image", found.image, input, "The picture as it came");
  draw("purified", found.purified, input, "The picture after the purifier");
  const taken = found.image.map((value, i) => 0.5 + STRENGTH * (value - found.purified[i]));
  draw("taken", taken, input, "The difference of the two");
  const verdict = found.suspicious ? "above the threshold of" : "not above the threshold of";
  $("suspicion").textContent = `Suspicion ${found.suspicion.toFixed(1)}, ${verdict} ${threshold.toFixed(1)}: ` +
    (found.suspicious ? "probably attacked, or unlike what the purifier was trained on." : "no sign of an attack.");
  $("score").style.width = `${Math.min(100, (25 * found.suspicion) / threshold)}%`; // the threshold is at a quarter
  $("score").classList.toggle("try-above", found.suspicious);
  $("classes").replaceChildren(...names.map((name, i) => {
    const row = made("tr", { className: i === label ? "try-label" : "" });
    const title = i === label ? `${name} (its label)` : name;
    row.append(made("th", { scope: "row", textContent: title }), cell(found.before[i]), cell(found.after[i]));
    return row;
  }));
  $("time").textContent = `${found.time.toFixed(1)} ms in this browser, on one thread, for the purifier and both answers.`;
  $("answer").hidden = false;
}

async function start() {
  top.textContent = "Loading 16 MB: ONNX Runtime Web and the models.";
  const pipeline = await open();
  const golden = await read("examples/examples.json");
  const { examples } = golden;
  top.replaceChildren(...page(pipeline.manifest, golden));
  let turn = 0;
  const answer = async (picture, label) => {
    const mine = ++turn;
    try {
      const found = await predict(pipeline, await fitted(await picture(), pipeline.manifest.input));
      if (mine === turn) show(pipeline, found, label);
    } catch (error) {
      if (mine !== turn) return;
      $("answer").hidden = true;
      $("said").textContent = error.message;
    }
  };
  const own = file => {
    for (const choice of $("example").querySelectorAll("input")) choice.checked = false;
    $("kind").disabled = true;
    return answer(async () => file);
  };
  const example = () => {
    const chosen = $("example").querySelector("input:checked") ?? $("example").querySelector("input");
    const kind = $("kind").querySelector("input:checked").value;
    const { place, label } = examples.find(one => String(one.place) === chosen.value);
    $("kind").disabled = false;
    $("file").value = "";
    return answer(async () => (await fetch(new URL(`examples/${place}-${kind}.png`, import.meta.url))).blob(), label);
  };
  $("example").addEventListener("change", example);
  $("kind").addEventListener("change", example);
  $("file").addEventListener("change", ({ target }) => target.files.length && own(target.files[0]));
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, event => event.preventDefault());
  document.addEventListener("drop", ({ dataTransfer }) => dataTransfer.files.length && own(dataTransfer.files[0]));
  await example(); // it also warms the models up
  await example();
}

start().catch(error => {
  top.textContent = `This page cannot run here: ${error.message}`;
});
