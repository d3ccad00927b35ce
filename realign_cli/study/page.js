"use strict";
// Leads a rater through the trials of this page, question by question. A page that was served sends each answer to its
// server and goes on when it is saved; any other keeps the answers in this browser until they are downloaded.
(() => {
  const element = (id) => document.getElementById(id);
  const { token, served, images, questions, trials, none, answers } = JSON.parse(element("data").textContent);
  const steps = trials.flatMap((trial, number) => questions.map((question) => ({ number, trial, question })));
  const START = -1; // the place of the instructions; that of the end is steps.length
  const PAUSE = 1500; // milliseconds until what failed is tried again
  const STORE = `realign study ${token}`;
  const given = new Map(); // answers by step
  let at = START;
  let since = 0; // when all images of the step were there
  let busy = false; // an answer is being saved

  const place = (answer) => steps.findIndex((one) => one.number === answer.trial && one.question.name === answer.question);
  const later = () => new Promise((done) => setTimeout(done, PAUSE));
  const chosen = () => element("form").querySelector(":checked");

  function restore() {
    let kept = answers;
    if (!served) {
      try {
        kept = JSON.parse(localStorage.getItem(STORE)) ?? [];
      } catch {
        kept = [];
      }
    }
    for (const answer of kept) given.set(place(answer), answer);
    given.delete(-1);
  }

  const notice = (text) => {
    element("notice").textContent = text;
    element("notice").hidden = !text;
  };

  // Resolves to whether the answer is saved; asks again as long as the server cannot be reached.
  async function save(answer) {
    if (!served) return keep();
    for (;;) {
      const reply = await fetch(`${token}/answers`, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(answer),
      }).catch(() => null);
      if (reply?.ok) {
        notice("");
        return true;
      }
      if (reply && reply.status < 500 && reply.status !== 408 && reply.status !== 429) {
        notice("The server does not accept this answer. Please reload the page.");
        return false;
      }
      notice("Not saved yet: the server does not answer. Trying again; please leave this page open.");
      await later();
    }
  }

  function keep() {
    try {
      localStorage.setItem(STORE, JSON.stringify([...given.values()]));
    } catch {
      notice("This browser keeps nothing: please answer everything and download it before you close this page.");
    }
    return true;
  }

  // Loads an image, again and again until it is there.
  function load(image, name) {
    return new Promise((done) => {
      image.onload = done;
      image.onerror = () => later().then(() => (image.src = `${images}/${name}`));
      image.src = `${images}/${name}`;
    });
  }

  function option(name, index) {
    const label = element("option").content.cloneNode(true).firstElementChild;
    label.querySelector("input").value = index;
    label.querySelector("kbd").textContent = index + 1;
    label.querySelector(".text").textContent = `Image ${index + 1}`;
    label.querySelector("img").alt = `Image ${index + 1}`;
    return label;
  }

  async function ask() {
    const { trial, question } = steps[at];
    const here = at;
    const answer = given.get(at);
    element("prompt").textContent = trial.text;
    element("question").textContent = question.text;
    const options = trial.images.map(option);
    const count = options.length;
    element("options").style.setProperty("--across", count <= 4 ? count : Math.ceil(count / 2));
    element("options").replaceChildren(...options);
    if (none) {
      element("none-text").textContent = question.none;
      element("none").firstElementChild.checked = Boolean(answer) && answer.choice === null;
    }
    const before = answer ? trial.images.indexOf(answer.choice) : -1;
    if (before >= 0) options[before].querySelector("input").checked = true;
    ready(false);
    await Promise.all(options.map((one, i) => load(one.querySelector("img"), trial.images[i])));
    if (here !== at) return;
    since = performance.now();
    ready(true);
    for (const name of steps[at + questions.length]?.trial.images ?? []) new Image().src = `${images}/${name}`;
  }

  function ready(is) {
    element("choices").disabled = !is;
    element("next").disabled = !is || !chosen();
  }

  function go(to) {
    at = Math.max(START, Math.min(steps.length, to));
    const asking = at > START && at < steps.length;
    element("start").hidden = at !== START;
    element("ask").hidden = !asking;
    element("end").hidden = at !== steps.length;
    element("help").hidden = at === START;
    element("begin").textContent = given.size ? "Continue" : "Start";
    element("place").textContent = asking ? `${at + 1} of ${steps.length}` : "";
    element("progress").value = given.size / steps.length;
    if (asking) ask();
    window.scrollTo(0, 0);
    const title = asking ? "prompt" : at === START ? "start-title" : "end-title";
    element(title).focus({ preventScroll: true });
  }

  const unanswered = () => {
    const first = steps.findIndex((_, i) => !given.has(i));
    return first < 0 ? steps.length : first;
  };

  async function next() {
    const input = chosen();
    if (busy || !input || element("next").disabled) return;
    const { number, trial, question } = steps[at];
    const choice = input.value === "none" ? null : trial.images[Number(input.value)];
    const before = given.get(at);
    if (!before || before.choice !== choice) {
      const ms = Math.round(performance.now() - since);
      const answer = { trial: number, question: question.name, choice, ms, at: new Date().toISOString() };
      given.set(at, answer);
      busy = true;
      ready(false);
      const saved = await save(answer);
      busy = false;
      if (!saved) {
        given.delete(at);
        return;
      }
    }
    go(at + 1 < steps.length ? at + 1 : unanswered());
  }

  function back() {
    if (!busy) go(at - 1);
  }

  function download() {
    const text = JSON.stringify({ schema: 1, rater: token, answers: [...given.values()] });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `answers-${token}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const onButton = event.target.closest?.("button");
    if (event.key === "Backspace" && at > START) {
      event.preventDefault();
      back();
    } else if (event.key === "Enter" && !onButton) {
      event.preventDefault();
      if (at === START) go(unanswered());
      else if (at < steps.length) next();
    } else if (/^\d$/.test(event.key) && at > START && at < steps.length && !element("choices").disabled) {
      const input = element("form").querySelector(`[value="${event.key === "0" ? "none" : event.key - 1}"]`);
      if (!input) return;
      input.click();
      input.focus({ preventScroll: true });
    }
  });
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    next();
  });
  element("form").addEventListener("change", () => ready(true));
  element("begin").addEventListener("click", () => go(unanswered()));
  element("help").addEventListener("click", () => busy || go(START));
  element("back").addEventListener("click", back);
  element("again").addEventListener("click", back);
  element("download")?.addEventListener("click", download);

  restore();
  go(given.size ? unanswered() : START);
})();
