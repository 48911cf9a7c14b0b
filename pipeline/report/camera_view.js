// The cameras of a scene in three dimensions, drawn as SVG. cameraView(box, scene) fills `box`; the scene is made by camera_view.py.
// Poses are camera-to-world with OpenCV axes: rotation by rows, then the position.

const CAMERA_VIEW = { fov: 40, degreesPerPixel: 0.4, keyDegrees: 5, near: 1e-3, mostNames: 40 };

const add3 = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const dot3 = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross3 = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit3 = (a) => a.map((x) => x / Math.hypot(...a));
const placeOf = (pose) => pose.slice(9);

// A point of the camera's axes in the world.
function toWorld(pose, p) {
  return [0, 1, 2].map((row) => pose[3 * row] * p[0] + pose[3 * row + 1] * p[1] + pose[3 * row + 2] * p[2] + pose[9 + row]);
}

// 1, 2 or 5 times a power of ten, the largest that is not above `most`.
function roundBelow(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((factor) => factor * power).find((step) => step <= most * (1 + 1e-9)) || power;
}

// Three axes of the world: across, along, up.
function worldAxes(up) {
  const aside = up.map(Math.abs);
  const least = aside.indexOf(Math.min(...aside));
  const across = unit3(cross3([0, 1, 2].map((i) => (i === least ? 1 : 0)), up));
  return { across, along: cross3(up, across), up };
}

// The middle of all positions and of what the cameras look at, how far they reach, and where the ground is put.
function extentOf(views, up) {
  const places = views.flatMap((view) => view.poses.map(placeOf));
  const low = [0, 1, 2].map((i) => Math.min(...places.map((p) => p[i])));
  const high = [0, 1, 2].map((i) => Math.max(...places.map((p) => p[i])));
  const middle = low.map((x, i) => (x + high[i]) / 2);
  const reach = Math.hypot(...high.map((x, i) => x - low[i])) / 2;
  const radius = reach > 1e-9 ? reach : 1;
  const heights = places.map((p) => dot3(p, up));
  const lowest = Math.min(...heights);
  // Sources that know which way is up put the ground at height 0; where that is out of reach, it goes below the lowest camera.
  const ground = lowest >= 0 && lowest < 2 * radius ? 0 : lowest - 0.25 * radius;
  return { middle, radius, ground };
}

function cameraView(box, scene) {
  const SVG = document.querySelector("svg").namespaceURI; // of the page's own mark: no address stands in this file
  const shape = (tag, attributes, parent) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (parent) parent.append(made);
    return made;
  };
  const hue = (i) => `hsl(${Math.round((i * 137.508 + 210) % 360)} 65% 52%)`;
  const views = scene.views;
  const axes = worldAxes(scene.up);
  const extent = extentOf(views, scene.up);
  const depth = extent.radius * (views.length > 1 ? 0.22 : 0.3);
  const unit = scene.metric ? "m" : "units";
  const frames = Math.max(...views.map((view) => view.poses.length));
  const home = { azimuth: 35, elevation: 24, distance: extent.radius * 2.6, target: extent.middle };
  const state = { ...home, frame: 0, chosen: -1 };
  const poseOf = (view) => view.poses[Math.min(state.frame, view.poses.length - 1)];
  const lensOf = (view) => view.K[Math.min(state.frame, view.K.length - 1)];

  const stage = make("div", { class: "camera-stage" });
  const svg = shape("svg", { tabindex: "0", role: "img" }, stage);
  const told = `${views.length} camera${views.length === 1 ? "" : "s"}, ${frames === 1 ? "static" : `${frames} frames`}`;
  svg.setAttribute("aria-label", `${scene.title}: ${told}. Arrow keys turn the view, plus and minus zoom, 0 resets, comma and full stop step through frames.`);
  const ground = shape("path", { class: "ground" }, svg);
  const upward = shape("path", { class: "axis-up" }, svg);
  const upLabel = shape("text", { "text-anchor": "middle" }, svg);
  upLabel.textContent = "up";
  const drawn = views.map((view, i) => {
    const group = shape("g", { class: "camera", "data-name": view.name }, svg);
    const parts = {
      group,
      path: view.poses.length > 1 ? shape("path", { class: "path", stroke: hue(i) }, group) : null,
      plane: shape("path", { class: "plane", fill: hue(i) }, group),
      frustum: shape("path", { class: "frustum", stroke: hue(i) }, group),
      name: views.length <= 24 ? shape("text", { class: "name" }, group) : null,
    };
    if (parts.name) parts.name.textContent = view.name;
    return parts;
  });
  const scaleBar = scene.metric ? shape("path", { class: "scale" }, svg) : null;
  const scaleLabel = shape("text", { class: "scale-label" }, svg);

  let width = 800;
  let height = 420;
  let eye = null;

  // Where the viewer stands, and its axes.
  function viewer() {
    const [a, e] = [state.azimuth, state.elevation].map((degrees) => (degrees * Math.PI) / 180);
    const away = add3(add3(axes.across.map((x) => x * Math.cos(e) * Math.cos(a)), axes.along, Math.cos(e) * Math.sin(a)), axes.up, Math.sin(e));
    const forward = away.map((x) => -x);
    const right = unit3(cross3(forward, axes.up));
    return { at: add3(state.target, away, state.distance), forward, right, upward: cross3(right, forward) };
  }

  const focal = () => height / 2 / Math.tan((CAMERA_VIEW.fov * Math.PI) / 360);
  const inView = (p) => {
    const d = add3(p, eye.at, -1);
    return [dot3(d, eye.right), dot3(d, eye.upward), dot3(d, eye.forward)];
  };
  const onScreen = (v) => [width / 2 + (focal() * v[0]) / v[2], height / 2 - (focal() * v[1]) / v[2]];
  const written = (p) => `${p[0].toFixed(2)} ${p[1].toFixed(2)}`;

  // SVG path of lines through points; what lies behind the viewer is cut off.
  function lines(...strips) {
    const near = CAMERA_VIEW.near * state.distance;
    let out = "";
    for (const strip of strips) {
      const seen = strip.map(inView);
      let open = false;
      for (let i = 0; i + 1 < seen.length; i++) {
        let [p, q] = [seen[i], seen[i + 1]];
        if (p[2] < near && q[2] < near) {
          open = false;
          continue;
        }
        const cut = () => add3(p, add3(q, p, -1), (near - p[2]) / (q[2] - p[2]));
        const [from, to] = [p[2] < near ? cut() : p, q[2] < near ? cut() : q];
        out += open && from === p ? `L${written(onScreen(to))}` : `M${written(onScreen(from))}L${written(onScreen(to))}`;
        open = to === q;
      }
    }
    return out;
  }

  // The picture's corners at `depth` before the camera, from the top left clockwise, and the tip of the mark on its upper edge.
  function cornersOf(view) {
    const [fx, fy, cx, cy] = lensOf(view);
    const [w, h] = view.size;
    // A long lens would draw a needle, a wide one a wall: the picture's diagonal stays what it is at 50 degrees.
    const s = Math.min(depth, (depth * 0.93) / Math.hypot(w / fx, h / fy));
    const at = (u, v) => toWorld(poseOf(view), [((u - cx) / fx) * s, ((v - cy) / fy) * s, s]);
    return { corners: [at(0, 0), at(w, 0), at(w, h), at(0, h)], tip: at(w / 2, -0.22 * h), edge: [at(0.4 * w, 0), at(0.6 * w, 0)] };
  }

  function drawGround() {
    const step = roundBelow(extent.radius / 2.5);
    const reach = Math.ceil((1.6 * extent.radius) / step);
    const centre = add3(extent.middle, axes.up, extent.ground - dot3(extent.middle, axes.up));
    const at = (i, j) => add3(add3(centre, axes.across, i * step), axes.along, j * step);
    const strips = [];
    for (let i = -reach; i <= reach; i++) strips.push([at(i, -reach), at(i, reach)], [at(-reach, i), at(reach, i)]);
    ground.setAttribute("d", lines(...strips));
    const foot = at(-reach, -reach);
    const [stem, top] = [add3(foot, axes.up, 0.5 * extent.radius), 0.08 * extent.radius];
    const barb = (side) => add3(add3(stem, axes.up, -top), axes.across, side * 0.5 * top);
    upward.setAttribute("d", lines([foot, stem], [barb(-1), stem, barb(1)]));
    place(upLabel, add3(stem, axes.up, 0.06 * extent.radius));
    return step;
  }

  function place(text, p, dx = 0, dy = 0) {
    const seen = inView(p);
    const hidden = seen[2] < CAMERA_VIEW.near * state.distance;
    text.setAttribute("visibility", hidden ? "hidden" : "visible");
    if (hidden) return;
    const [x, y] = onScreen(seen);
    text.setAttribute("x", (x + dx).toFixed(1));
    text.setAttribute("y", (y + dy).toFixed(1));
  }

  function drawScale(step) {
    const grid = `grid ${Number(step.toPrecision(3))} ${unit}`;
    if (!scaleBar) {
      scaleLabel.setAttribute("x", 14);
      scaleLabel.setAttribute("y", height - 12);
      scaleLabel.textContent = `${grid}; the scale is arbitrary`;
      return;
    }
    const pixels = focal() / state.distance; // of one metre at the turning point
    const length = roundBelow(Math.min(160, width / 3) / pixels);
    scaleBar.setAttribute("d", `M14 ${height - 20}v8h${(length * pixels).toFixed(2)}v-8`);
    scaleBar.dataset.metres = length;
    scaleLabel.setAttribute("x", (22 + length * pixels).toFixed(1));
    scaleLabel.setAttribute("y", height - 12);
    scaleLabel.textContent = `${Number(length.toPrecision(3))} m at the middle; ${grid}`;
  }

  function draw() {
    eye = viewer();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const step = drawGround();
    views.forEach((view, i) => {
      const { corners, tip, edge } = cornersOf(view);
      const [a, b, c, d] = corners;
      const at = placeOf(poseOf(view));
      drawn[i].frustum.setAttribute("d", lines([a, b, c, d, a], [at, a], [at, b], [at, c], [at, d], [edge[0], tip, edge[1]]));
      drawn[i].plane.setAttribute("d", lines([a, b, c, d, a]));
      if (drawn[i].path) drawn[i].path.setAttribute("d", lines(view.poses.map(placeOf)));
      if (drawn[i].name) place(drawn[i].name, at, 6, -6);
      drawn[i].group.setAttribute("class", i === state.chosen ? "camera on" : "camera");
    });
    drawScale(step);
    // Numbers for whoever checks the drawing.
    Object.assign(svg.dataset, { azimuth: state.azimuth, elevation: state.elevation, distance: state.distance, target: state.target.join(" ") });
  }

  const turn = (azimuth, elevation) => {
    state.azimuth = (state.azimuth + azimuth) % 360;
    state.elevation = Math.max(-89, Math.min(89, state.elevation + elevation));
    draw();
  };
  const zoom = (factor) => {
    state.distance = Math.max(0.05 * extent.radius, Math.min(40 * extent.radius, state.distance * factor));
    draw();
  };
  const pan = (dx, dy) => {
    const perPixel = state.distance / focal();
    state.target = add3(add3(state.target, eye.right, -dx * perPixel), eye.upward, dy * perPixel);
    draw();
  };
  const reset = () => {
    Object.assign(state, home);
    draw();
  };

  // One finger or the mouse turns; two fingers, Shift or another button move; wheel and pinch zoom.
  const fingers = new Map();
  svg.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    svg.setPointerCapture(event.pointerId);
    svg.focus({ preventScroll: true });
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (others.length) {
      const far = (at) => Math.max(1, Math.hypot(at[0] - others[0][0], at[1] - others[0][1]));
      pan(dx / 2, dy / 2);
      zoom(far(before) / far([event.clientX, event.clientY]));
    } else if (event.shiftKey || event.buttons > 1) pan(dx, dy);
    else turn(-dx * CAMERA_VIEW.degreesPerPixel, dy * CAMERA_VIEW.degreesPerPixel);
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => fingers.delete(event.pointerId));
  svg.addEventListener("contextmenu", (event) => event.preventDefault());
  // Only after a click or Tab: until then the wheel scrolls the page.
  svg.addEventListener("wheel", (event) => {
    if (document.activeElement !== svg) return;
    event.preventDefault();
    zoom(Math.exp(Math.sign(event.deltaY) * 0.12));
  }, { passive: false });
  svg.addEventListener("keydown", (event) => {
    const degrees = CAMERA_VIEW.keyDegrees;
    const move = event.shiftKey;
    const action = {
      ArrowLeft: () => (move ? pan(20, 0) : turn(-degrees, 0)),
      ArrowRight: () => (move ? pan(-20, 0) : turn(degrees, 0)),
      ArrowUp: () => (move ? pan(0, 20) : turn(0, degrees)),
      ArrowDown: () => (move ? pan(0, -20) : turn(0, -degrees)),
      "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1 / 0.9), 0: reset, Home: reset,
      ",": () => go(state.frame - 1), ".": () => go(state.frame + 1),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });

  const slider = make("input", { type: "range", min: 0, max: frames - 1, step: 1, value: 0, "aria-label": "Frame" });
  const frameText = make("output", {});
  const play = make("button", { type: "button" }, "Play");
  const note = make("p", { class: "camera-told", "aria-live": "polite" });
  let timer = 0;
  function go(frame) {
    state.frame = Math.max(0, Math.min(frames - 1, frame));
    slider.value = state.frame;
    const longest = views.find((view) => view.poses.length === frames);
    frameText.textContent = `frame ${longest.frames[state.frame]} (${state.frame + 1} of ${frames})`;
    tell();
    draw();
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }
  slider.addEventListener("input", () => go(Number(slider.value)));
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.textContent = "Stop";
    timer = setInterval(() => go((state.frame + 1) % frames), Math.max(40, Math.min(250, 4000 / frames)));
  });
  const again = make("button", { type: "button" }, "Reset view");
  again.addEventListener("click", reset);
  const bar = make("div", { class: "camera-bar" });
  if (frames > 1) bar.append(play, slider, frameText);
  bar.append(again, make("span", {}, "Drag to turn, Shift-drag to move, wheel to zoom; arrow keys, + and -"));

  // What is known of the chosen camera, or of all.
  function tell() {
    if (state.chosen < 0) {
      const { views: v, ofViews, poses, ofPoses } = scene.shown;
      const some = [v < ofViews ? `${v} of ${ofViews} views` : "", poses < ofPoses ? `${poses} of ${ofPoses} poses` : ""].filter(Boolean);
      note.textContent = `Up: ${scene.upFrom}.${some.length ? ` Drawn: ${some.join(" and ")}, spread evenly.` : ""} Choose a camera for its numbers.`;
      return;
    }
    const view = views[state.chosen];
    const [fx] = lensOf(view);
    const fov = (2 * Math.atan(view.size[0] / (2 * fx)) * 180) / Math.PI;
    const at = placeOf(poseOf(view)).map((x) => Number(x.toPrecision(4))).join(", ");
    const bent = view.distortion.length ? "; drawn without its distortion" : "";
    note.textContent = `${view.name}: at ${at} ${unit}; ${view.size.join(" x ")} pixels, fx ${Number(fx.toPrecision(5))}, ${fov.toFixed(1)} degrees across${bent}.`;
  }
  const names = make("div", { class: "camera-names", role: "group", "aria-label": "Cameras" });
  const buttons = views.slice(0, CAMERA_VIEW.mostNames).map((view, i) => {
    const swatch = make("i", {});
    swatch.style.background = hue(i);
    const button = make("button", { type: "button", "aria-pressed": "false" }, swatch, view.name);
    button.addEventListener("click", () => {
      state.chosen = state.chosen === i ? -1 : i;
      buttons.forEach((each, j) => each.setAttribute("aria-pressed", String(j === state.chosen)));
      tell();
      draw();
    });
    return button;
  });
  names.append(...buttons);
  if (views.length > buttons.length) names.append(`and ${views.length - buttons.length} more`);

  box.replaceChildren(stage, bar, names, note);
  const fit = () => {
    const room = svg.getBoundingClientRect();
    if (room.width < 10 || room.height < 10) return;
    [width, height] = [room.width, room.height];
    draw();
  };
  const watch = new ResizeObserver(fit);
  watch.observe(svg);
  go(0);
  fit();
  return { stop: () => { stop(); watch.disconnect(); } };
}
