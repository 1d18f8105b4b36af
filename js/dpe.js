/**
 * Shows what a DPE node has to say after it ran (ui message `dpe_note`, a list of texts) below its widgets.
 *
 * The note is there to be read only: it is added when there is something to show, below all that is saved, never saved, so
 * `widgets_values` and prompts are the same with and without it. It is gone after a reload, and comes back where the
 * front end gives back what nodes put out: after an undo, and when another workflow's tab was open.
 */
import { app } from "../../scripts/app.js";

const NAME = "dpe_note";
const PREVIEW = "$$canvas-image-preview"; // the host's widget, whose picture fills the node down to its bottom
const MARGIN = 6; // px between the note and the node's edges and neighbours
const STYLE = {
  boxSizing: "border-box",
  padding: "0 10px",
  font: "12px/1.4 sans-serif",
  color: "var(--descrip-text, #999)",
  whiteSpace: "pre-line",
  overflowWrap: "anywhere", // file names have no spaces to break at
  overflow: "hidden",
  cursor: "text",
  userSelect: "text",
};

/** Height in px that the element needs at a width, whether or not it is on the canvas now. */
function heightAt(element, width) {
  const twin = element.cloneNode(true);
  Object.assign(twin.style, { position: "absolute", visibility: "hidden", width: `${width}px`, height: "auto" });
  document.body.append(twin);
  const height = Math.ceil(twin.getBoundingClientRect().height);
  twin.remove();
  return height;
}

/** Measures again only when text or width have changed: the canvas asks on every drawing. */
function measure(node, element) {
  let key, height;
  return () => {
    const width = Math.max(node.size[0] - 2 * MARGIN, 1);
    const current = `${width} ${element.textContent}`;
    if (key !== current) {
      key = current;
      height = heightAt(element, width) + 2 * MARGIN;
    }
    return height;
  };
}

/** Zooming and moving the canvas go on working above the note. */
function passOn(element) {
  element.addEventListener("wheel", (event) => {
    event.stopPropagation(); // a Vue node around the note would pass it on once more
    app.canvas.processMouseWheel(event);
  });
  const middle = 1;
  element.addEventListener("pointerdown", (event) => event.button === middle && app.canvas.processMouseDown(event));
}

function addNote(node) {
  const element = document.createElement("div");
  element.className = "dpe-note";
  Object.assign(element.style, STYLE);
  passOn(element);
  const height = measure(node, element);
  const widget = node.addDOMWidget(NAME, NAME, element, {
    serialize: false, // not sent with prompts
    margin: MARGIN,
    getMinHeight: height,
    getMaxHeight: height,
    getValue: () => element.textContent,
    setValue: (text) => (element.textContent = text),
  });
  widget.serialize = false; // not saved in workflows
  aboveThePreview(node, widget);
  return widget;
}

/** A picture shown before would be drawn over a note below it; neither is saved, so their order matters to nothing. */
function aboveThePreview(node, widget) {
  const preview = node.widgets.findIndex(({ name }) => name === PREVIEW);
  if (preview < 0) return;
  node.widgets.splice(node.widgets.indexOf(widget), 1);
  node.widgets.splice(preview, 0, widget);
}

/** A node that ran several times at once, over a list, has a text for each time. */
function showNote(node, texts) {
  const present = node.widgets?.find((widget) => widget.name === NAME);
  if (!texts.length) {
    if (present) node.removeWidget(present);
    return;
  }
  const widget = present ?? addNote(node);
  widget.value = texts.join("\n");
  const needed = node.computeSize()[1];
  if (node.size[1] < needed) node.setSize([node.size[0], needed]);
  node.setDirtyCanvas(true, true);
}

/** All nodes of ours with the names that the front end gives their outputs; those of subgraphs begin with theirs. */
function ownNodes() {
  const graphs = [["", app.graph], ...[...(app.graph.subgraphs ?? [])].map(([id, graph]) => [`${id}:`, graph])];
  return graphs
    .flatMap(([prefix, graph]) => graph.nodes.map((node) => [prefix + node.id, node]))
    .filter(([, node]) => node.type.startsWith("DPE_"));
}

app.registerExtension({
  name: "DPE.Note",
  onNodeOutputsUpdated(outputs) {
    for (const [name, node] of ownNodes()) showNote(node, outputs?.[name]?.dpe_note ?? []);
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("DPE_")) return;
    const { onExecuted } = nodeType.prototype;
    nodeType.prototype.onExecuted = function (message) {
      onExecuted?.call(this, message);
      showNote(this, message?.dpe_note ?? []);
    };
  },
});
