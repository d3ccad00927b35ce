"use strict";
// Sorts, filters and searches the prompts of this page, and opens one in full. The markup of a card lies in a template
// and becomes part of the page when it is scrolled to, so that thousands of images cost nothing until they are seen.
(() => {
  const source = document.getElementById("data");
  const element = (id) => document.getElementById(id);
  const dialog = element("full");
  for (const button of document.querySelectorAll(".enlarge")) {
    button.addEventListener("click", () => openPlot(button.querySelector("img")));
  }
  element("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop is the dialog itself
  });

  const { columns, systems, cards } = JSON.parse(source.textContent);
  const PAGE = 48;
  const grid = element("cards");
  let matching = []; // indices of cards, in the order shown
  let rendered = 0; // how many of them are in the grid
  let opened = -1; // place in `matching` of the one in the dialog

  function openPlot(image) {
    opened = -1;
    const copy = image.cloneNode();
    copy.className = "plot-full";
    show(image.alt, [copy]);
  }

  function show(title, nodes) {
    element("full-title").textContent = title;
    element("full-body").replaceChildren(...nodes);
    for (const id of ["previous", "next"]) element(id).hidden = opened < 0;
    element("previous").disabled = opened <= 0;
    element("next").disabled = opened >= matching.length - 1;
    if (!dialog.open) dialog.showModal();
    element("full-body").focus({ preventScroll: true });
    dialog.scrollTop = 0;
  }

  if (!grid) return;
  const tools = element("tools");

  // What a card says under the chosen column: the number, and how it changed.
  const column = () => columns[element("column").selectedIndex];
  const before = () => element("before")?.selectedIndex ?? 0;
  const after = () => element("after")?.selectedIndex ?? systems.length - 1;
  const known = (value) => value !== null && value !== undefined;
  const value = (card) => card.values[column()]?.[after()];
  function change(card) {
    const [one, other] = [card.values[column()]?.[before()], value(card)];
    return before() !== after() && known(one) && known(other) ? other - one : undefined;
  }

  const KEYS = { high: [value, -1], low: [value, 1], rose: [change, -1], fell: [change, 1] };
  const WANTED = { better: (by) => by > 0, same: (by) => by === 0, worse: (by) => by < 0 };

  function update() {
    const words = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = WANTED[element("change").value];
    const kept = element("kept").value;
    const category = element("category").value;
    const failed = element("failed").checked;
    matching = [];
    cards.forEach((card, index) => {
      const text = `${card.id} ${card.text}`.toLowerCase();
      const by = wanted && change(card);
      if (
        words.every((word) => text.includes(word)) &&
        (!wanted || (by !== undefined && wanted(by))) &&
        (!kept || card.kept === kept) &&
        (!category || card.categories.includes(category)) &&
        (!failed || card.failed)
      ) {
        matching.push(index);
      }
    });
    const key = KEYS[element("order").value];
    if (key) {
      const [number, sign] = key;
      const numbers = new Map(matching.map((index) => [index, number(cards[index])]));
      matching.sort((one, other) => {
        const [a, b] = [numbers.get(one), numbers.get(other)];
        if (!known(a) || !known(b)) return known(b) - known(a) || one - other; // what has no number comes last
        return sign * (a - b) || one - other;
      });
    }
    element("count").textContent =
      matching.length === cards.length ? `${cards.length} prompts` : `${matching.length} of ${cards.length} prompts`;
    rendered = 0;
    grid.replaceChildren();
    more();
  }

  function more() {
    const next = matching.slice(rendered, rendered + PAGE).map(copy);
    grid.append(...next);
    rendered += next.length;
    element("more").hidden = rendered >= matching.length;
    element("more").textContent = `Show more (${matching.length - rendered} left)`;
  }

  function copy(index) {
    const card = element(`card-${index}`).content.cloneNode(true).firstElementChild;
    const images = [...card.querySelectorAll(".picture")].map((picture) => picture.querySelector("img"));
    for (const image of images) {
      if (image && image.dataset.same) image.src = images[Number(image.dataset.same)].src;
    }
    card.querySelector(".chosen").append(...chosen(cards[index]));
    return card;
  }

  function chosen(card) {
    const number = value(card);
    if (!known(number)) return [];
    const by = change(card);
    const parts = [`${column()} ${number.toFixed(3)}`];
    if (by !== undefined) {
      const mark = document.createElement("span");
      mark.className = by > 0 ? "up" : by < 0 ? "down" : "";
      mark.textContent = by === 0 ? " unchanged" : ` ${by < 0 ? "−" : "+"}${Math.abs(by).toFixed(3)}`;
      parts.push(mark);
    }
    return parts;
  }

  function openCard(place) {
    opened = place;
    const card = copy(matching[place]);
    for (const image of card.querySelectorAll("img[data-full]")) image.src = image.dataset.full;
    const title = card.querySelector(".open").textContent;
    show(title, [card.querySelector(".facts"), card.querySelector(".body")]);
  }

  function step(by) {
    const place = opened + by;
    if (opened < 0 || place < 0 || place >= matching.length) return;
    while (rendered <= place) more();
    openCard(place);
  }

  // Where the focus goes when the dialog closes: to the card that was shown last.
  dialog.addEventListener("close", () => {
    if (opened >= 0) buttons()[opened]?.focus();
    element("full-body").replaceChildren();
    opened = -1;
  });
  element("previous").addEventListener("click", () => step(-1));
  element("next").addEventListener("click", () => step(1));

  const buttons = () => [...grid.querySelectorAll(".open")];
  grid.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card) openCard([...grid.children].indexOf(card));
  });

  function move(key) {
    const all = buttons();
    const at = all.indexOf(document.activeElement);
    if (at < 0) return false;
    const top = (button) => button.closest(".card").offsetTop;
    const width = all.findIndex((button) => top(button) !== top(all[0]));
    const across = width < 0 ? all.length : width;
    const to = at + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[key];
    if (to >= all.length) more();
    const target = buttons()[to];
    if (target) {
      target.focus({ preventScroll: true });
      target.closest(".card").scrollIntoView({ block: "nearest" });
    }
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest?.("input, select, textarea");
    if (dialog.open) {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        event.preventDefault();
        step(event.key === "ArrowLeft" ? -1 : 1);
      }
      return;
    }
    const search = element("search");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.target === search && (event.key === "ArrowDown" || event.key === "Enter")) {
      event.preventDefault();
      buttons()[0]?.focus();
    } else if (event.target === search && event.key === "Escape") {
      event.preventDefault();
      search.value = "";
      update();
      search.blur();
    } else if (!typing && event.key.startsWith("Arrow") && move(event.key)) {
      event.preventDefault();
    }
  });

  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("input", update);
  tools.addEventListener("reset", () => setTimeout(update)); // after the form has its values again
  element("more").addEventListener("click", more);
  new IntersectionObserver((seen) => {
    if (seen.some((one) => one.isIntersecting)) more();
  }, { rootMargin: "1200px" }).observe(element("more"));
  update();
})();
