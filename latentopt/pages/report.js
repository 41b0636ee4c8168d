(() => {
  "use strict";
  const points = JSON.parse(document.getElementById("points").textContent);
  const tip = document.getElementById("tip");
  const picture = tip.querySelector("img");
  const words = tip.querySelector("span");
  const reach = 26;
  let on = null;

  const hide = () => {
    if (on) on.classList.remove("on");
    on = null;
    tip.hidden = true;
  };

  const show = (mark, event) => {
    const point = points[Number(mark.dataset.p)];
    if (!point) return hide();
    if (mark !== on) {
      hide();
      on = mark;
      mark.classList.add("on");
      picture.src = point.u;
      picture.alt = point.t;
      words.textContent = point.t;
      tip.hidden = false;
    }
    const size = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 16, innerWidth - size.width - 8);
    const below = event.clientY + 18;
    const top = below + size.height > innerHeight ? event.clientY - size.height - 14 : below;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };

  for (const plot of document.querySelectorAll(".plot")) {
    const marks = [...plot.querySelectorAll("[data-p]")].map((mark) => {
      const [, x, y] = mark.getAttribute("d").match(/^M(\S+) (\S+)h0$/);
      return { mark, x: x / 1000, y: y / 1000 };
    });
    if (!marks.length) continue;
    const look = (event) => {
      const box = plot.getBoundingClientRect();
      let nearest = null;
      let least = reach * reach;
      for (const one of marks) {
        const dx = box.left + one.x * box.width - event.clientX;
        const dy = box.top + one.y * box.height - event.clientY;
        const distance = dx * dx + dy * dy;
        if (distance <= least) [nearest, least] = [one.mark, distance];
      }
      if (nearest) show(nearest, event);
      else hide();
    };
    plot.addEventListener("pointermove", look);
    plot.addEventListener("pointerdown", look);
    plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  }
  addEventListener("scroll", hide, { passive: true });

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      let done = false;
      try {
        await navigator.clipboard.writeText(source.textContent);
        done = true;
      } catch {
        getSelection().selectAllChildren(source);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => (button.textContent = "Copy"), 2500);
    });
  }
})();
