/**
 * A button below the sliders of DPE Portrait Editor that sets them all to 0.
 *
 * It stands after all that is saved and is neither saved nor sent, so workflows are the same with and without it.
 */
import { app } from "../../scripts/app.js";

const NODE = "DPE_PortraitEditor";

function reset(node) {
  for (const widget of node.widgets) {
    if (typeof widget.value !== "number") continue;
    widget.value = 0;
    widget.callback?.(0, app.canvas, node);
  }
  node.setDirtyCanvas(true, true);
}

function addButton(node) {
  const button = node.addWidget("button", "Reset", null, () => reset(node), { serialize: false }); // not sent with prompts
  button.serialize = false; // not saved in workflows
}

app.registerExtension({
  name: "DPE.PortraitEditor",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const { onNodeCreated } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function () {
      onNodeCreated?.call(this);
      addButton(this);
    };
  },
});
