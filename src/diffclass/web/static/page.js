// The page: what is chosen, and what is shown of the answer.

import { Race, bar } from "./race.js";
import { Problem, ask, follow, picture } from "./talk.js";

const $ = (id) => document.getElementById(id);
const race = new Race($("lanes"), $("axis"));
const still = matchMedia("(prefers-reduced-motion: reduce)");
const PACE = 110; // [ms] between two states of a race that are shown, or it would be over before it is seen
const state = { models: [], limits: {}, body: null, sample: null, address: null, running: {} };

const number = (x) => x.toLocaleString("en");
const show = (id, on = true) => { $(id).hidden = !on; };
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const model = () => state.models.find((one) => one.name === $("model").value);

function complain(error) {
  show("problem", Boolean(error));
  if (!error) return;
  $("problem").textContent = error instanceof Problem ? error.message : `Something went wrong on the page: ${error}.`;
  if (!(error instanceof Problem)) console.error(error);
}

// Choosing

function choose(body, sample, address, text, tiny, truth = null) {
  Object.assign(state, { body, sample, address, truth });
  const preview = $("preview");
  preview.src = address;
  preview.alt = text;
  preview.classList.toggle("tiny", tiny);
  preview.onload = () => preview.classList.toggle("tiny", preview.naturalWidth < 64);
  preview.onerror = () => show("preview", false); // the browser may not know the format; the server judges
  show("preview");
  $("drop-text").textContent = text;
  for (const button of $("samples").children) button.setAttribute("aria-pressed", button.dataset.name === sample);
  $("classify").disabled = !state.models.length;
  complain(null);
}

function takeFile(file) {
  if (!file) return;
  if (file.size > state.limits.upload) {
    complain(new Problem(`The picture may have ${number(state.limits.upload)} bytes at most. '${file.name}' has ${number(file.size)}. Shrink it.`));
    return;
  }
  choose(file, null, URL.createObjectURL(file), file.name, false);
}

function listen() {
  $("file").addEventListener("change", () => { takeFile($("file").files[0]); $("file").value = ""; });
  const drop = $("drop");
  for (const kind of ["dragover", "dragenter"]) addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) addEventListener(kind, () => drop.classList.remove("over"));
  addEventListener("drop", (event) => { event.preventDefault(); takeFile(event.dataTransfer.files[0]); });
  addEventListener("paste", (event) => takeFile(event.clipboardData.files[0]));
  $("model").addEventListener("change", tellModel);
  $("form").addEventListener("submit", (event) => { event.preventDefault(); run("classify", "stop", classify); });
  $("certify-form").addEventListener("submit", (event) => { event.preventDefault(); run("certify", "certify-stop", certify); });
  $("explain").addEventListener("click", () => run("explain", "explain-stop", explain));
}

function tellModel() {
  const one = model();
  const found = one.accuracy;
  const facts = [one.description];
  if (found) facts.push(`Accuracy ${(100 * found.value).toFixed(1)}% (${(100 * found.low).toFixed(1)} to ${(100 * found.high).toFixed(1)}) of ${number(found.n)} pictures (${found.split}).`);
  $("about").textContent = facts.filter(Boolean).join(" ");
  show("words-box", !one.classes.length);
  show("labels", one.classes.length > 0);
  $("labels-box").open = !one.classes.length;
  $("labels-note").textContent = one.classes.length ? `all ${one.classes.length}` : "";
  $("labels").replaceChildren(...one.classes.slice(0, 300).map((name) => {
    const chip = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: true, value: name });
    box.addEventListener("change", countLabels);
    chip.append(box, name);
    return chip;
  }));
}

function chosenLabels() {
  if (!model().classes.length) return $("words").value.split(",").map((word) => word.trim()).filter(Boolean);
  const boxes = [...$("labels").querySelectorAll("input")];
  const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
  return chosen.length === boxes.length ? [] : chosen;
}

function countLabels() {
  const labels = chosenLabels();
  $("labels-note").textContent = labels.length ? `${labels.length} of ${model().classes.length}; the calibration does not hold for some` : `all ${model().classes.length}`;
}

/** What is asked for: certificates and reasons are of the picture that was answered, whatever was chosen since. */
function asking() {
  const parameters = new URLSearchParams({ model: $("model").value, convert: "true" });
  for (const label of chosenLabels()) parameters.append("label", label);
  if (state.sample) parameters.set("sample", state.sample);
  return { parameters, body: state.sample ? null : state.body, address: state.address, truth: state.truth, tiny: $("preview").classList.contains("tiny") };
}

function further(path, more, signal, tell) {
  const parameters = new URLSearchParams(state.asked.parameters);
  for (const [key, value] of Object.entries(more)) parameters.set(key, value);
  return follow(path, parameters, state.asked.body, signal, tell);
}

/** Run one kind of request at a time; its stop button hangs up, which frees the server. */
async function run(button, stop, work) {
  if ($(button).ariaDisabled === "true") return; // not disabled: it would lose the keyboard's focus
  const hangUp = new AbortController();
  state.running[button] = hangUp;
  $(button).ariaDisabled = "true";
  $(stop).onclick = () => hangUp.abort();
  show(stop);
  complain(null);
  try {
    await work(hangUp.signal);
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
    else work.stopped?.();
  } finally {
    if (document.activeElement === $(stop)) $(button).focus();
    show(stop, false);
    $(button).ariaDisabled = "false";
  }
}

// The race and the answer

async function classify(signal) {
  const states = [];
  let ended = false, failed = null, seen = null;
  for (const id of ["answer", "safety", "why", "votes-box", "start"]) show(id, false);
  for (const kind of ["certify", "explain"]) state.running[kind]?.abort();
  race.clear();
  if ($("race").getBoundingClientRect().top > innerHeight * 0.7) $("found").scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
  $("race-state").textContent = model().loaded ? "Waiting for a place in a batch …" : "Loading the model …";
  const asked = asking(), used = model();
  const talking = follow("classify", asked.parameters, asked.body, signal, (kind, data) => {
    if (kind === "picture") seen = data;
    else states.push([kind, data]);
  }).catch((error) => { failed = error; }).finally(() => { ended = true; });
  while (!ended || states.length) {
    if (signal.aborted) break;
    const next = states.shift();
    if (next) showState(...next, seen, asked);
    const hurry = states.length > 12 ? 3 : 1;
    await wait(next && !still.matches ? PACE / hurry : 25);
  }
  await talking;
  if (failed) {
    $("race-state").textContent = failed.name === "AbortError" ? "Stopped." : "";
    throw failed;
  }
  used.loaded = true;
}

function showState(kind, data, seen, asked) {
  race.show(data);
  const left = data.survivors.length;
  $("race-state").textContent = `${number(data.n_draws)} draws, ${number(data.evaluations)} network evaluations, ${left} ${left === 1 ? "class" : "classes"} left`;
  if (kind === "answer") showAnswer(data, seen, asked);
}

function showAnswer(answer, seen, asked) {
  state.asked = asked;
  $("copies").value = state.models.find((one) => one.name === answer.model).kind === "mixture" ? "1000" : "100"; // a copy is a race
  race.settle();
  show("answer");
  $("original").src = asked.address;
  $("original").classList.toggle("tiny", asked.tiny);
  show("seen-box", Boolean(seen.png) && seen.changes.length > 0);
  if (seen.png) $("seen").src = seen.png;
  $("seen").classList.add("tiny");
  $("original-text").textContent = asked.truth ? `labelled ${asked.truth}` : "the picture";
  $("seen-text").textContent = `as the model sees it: ${seen.changes.join("; ")}`;
  $("label").textContent = answer.label ?? `undecided: ${answer.survivors.join(" or ")}`;
  $("label").classList.toggle("none", answer.label === null);
  const calibrated = answer.probability !== null;
  const sure = calibrated ? answer.probability : answer.score;
  $("sure").textContent = percent(sure) + (calibrated ? " calibrated: so often are such answers right" : " of the draws' certainty; without calibration that is not how often it is right");
  $("meter").firstElementChild.style.width = `${100 * sure}%`;
  $("odds").textContent = `log-odds ${answer.log_odds.toFixed(1)} ± ${answer.log_odds_se === null ? "?" : answer.log_odds_se.toFixed(1)} over ${answer.runner_up}`;
  const why = { confidence: "one class was left", budget: "all draws were used", undecided: "all draws were used, and the race was open" }[answer.reason];
  $("cost").textContent = `${answer.seconds.toFixed(2)} s, ${number(answer.evaluations)} of at most ${number(answer.budget)} network evaluations: ${why}.`;
  bar($("votes"), answer.vote_shares);
  show("votes-box");
  $("proof").textContent = "";
  $("proof").classList.remove("proved");
  $("copies-votes").replaceChildren();
  show("safety");
  show("why", state.explain);
  $("reasons").replaceChildren();
  $("explain-state").textContent = "";
}

function percent(share) {
  if (share > 0.9995) return "over 99.9%";
  return `${(100 * share).toFixed(1)}%`;
}

// The certificate

async function certify(signal) {
  const n = $("copies").value;
  $("proof").classList.remove("proved");
  $("proof").textContent = "";
  $("bar").removeAttribute("value");
  $("bar-text").textContent = "";
  $("copies-votes").replaceChildren();
  show("certify-progress");
  await further("certify", { sigma: $("sigma").value, n, n0: n > 100 ? 100 : 20 }, signal, (kind, data) => {
    if (kind === "progress") showProgress(data);
    if (kind === "certificate") showCertificate(data);
  }).finally(() => show("certify-progress", false));
}
certify.stopped = () => {
  $("copies-votes").replaceChildren();
  $("proof").textContent = "Stopped. A count that was cut short proves nothing.";
};

function showProgress({ done, of, votes, undecided }) {
  $("bar").value = done / of;
  $("bar-text").textContent = `${number(done)} of ${number(of)} noisy copies`;
  showVotes(votes, undecided);
}

function showVotes(votes, undecided) {
  const total = Object.values(votes).reduce((a, b) => a + b, undecided) || 1;
  bar($("copies-votes"), Object.fromEntries([...Object.entries(votes), ["no answer", undecided]].map(([name, count]) => [name, count / total])));
}

function showCertificate(proof) {
  const votes = Object.fromEntries(proof.classes.map((name, i) => [name, proof.votes.counts[i]]));
  showVotes(votes, proof.votes.undecided);
  $("proof").classList.toggle("proved", proof.label !== null);
  $("proof").textContent = proof.label === null
    ? `Nothing is proved: of ${number(proof.n)} noisy copies too few agree.`
    : `The label of the vote, ${proof.label}, holds for every change of size below ${proof.radius.toFixed(3)} (L2, pixels in 0 to 1), with ${(100 * (1 - proof.alpha)).toFixed(1)}% confidence.`;
}

// The explanation

async function explain(signal) {
  $("reasons").replaceChildren();
  $("explain-state").textContent = "Working …";
  await further("explain", {}, signal, (kind, data) => {
    if (kind === "explanation") showReasons(data);
  });
}
explain.stopped = () => { $("explain-state").textContent = "Stopped."; };

function showReasons({ pictures = [], text = "" }) {
  $("explain-state").textContent = text;
  $("reasons").replaceChildren(...pictures.map(({ heading, note, png, over }) => {
    const figure = document.createElement("figure"), stack = document.createElement("div"), words = document.createElement("figcaption");
    stack.className = over ? "stack faint" : "stack";
    for (const [source, alt] of [[png, heading], [over, ""]]) {
      if (source) stack.append(Object.assign(document.createElement("img"), { src: source, alt, className: "tiny" }));
    }
    words.append(Object.assign(document.createElement("strong"), { textContent: heading }), document.createElement("br"), note);
    figure.append(stack, words);
    return figure;
  }));
}

// The beginning

async function begin() {
  listen();
  const { models, limits, explain: explains } = await ask("models");
  Object.assign(state, { models, limits, explain: explains });
  $("model").replaceChildren(...models.map(({ name, kind, shape }) => new Option(`${name} (${kind}, ${shape[1]} × ${shape[2]})`, name)));
  const { samples } = await ask("samples");
  const fitting = samples.find((sample) => sample.model)?.model;
  $("model").value = fitting ?? models[0].name;
  $("model").disabled = false;
  tellModel();
  await Promise.all(samples.map(addSample));
  show("samples-box", samples.length > 0);
  if (state.body) $("classify").disabled = false;
}

async function addSample({ name, truth, model: fits }) {
  const button = document.createElement("button"), image = document.createElement("img");
  button.type = "button";
  button.dataset.name = name;
  button.setAttribute("aria-pressed", "false");
  Object.assign(image, { alt: `sample: ${truth}` });
  button.append(image);
  $("samples").append(button);
  image.src = await picture(`samples/${name}`);
  button.addEventListener("click", () => {
    if (fits && fits !== $("model").value && !model().classes.includes(truth)) { $("model").value = fits; tellModel(); }
    choose(null, name, image.src, `sample: ${truth}`, image.naturalWidth < 64, truth);
  });
}

begin().catch(complain);
