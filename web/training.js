// The button on Realism Train LoRA that ends a training early and hands on what there is; nodes/stopping.py answers.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const tell = (severity, detail) =>
  app.extensionManager.toast.add({ severity, summary: "Realism Kit", detail, life: 5000 });

async function stopAndKeep() {
  try {
    const response = await api.fetchApi("/realism/stop_and_keep", { method: "POST" });
    const { stopping } = await response.json();
    if (stopping) tell("info", "The training stops after this step and hands on what there is.");
    else tell("warn", "No training runs.");
  } catch (error) {
    tell("error", `The server did not answer (${error}): the training goes on.`);
  }
}

app.registerExtension({
  name: "RealismKit.Training",
  nodeCreated(node) {
    if (node.comfyClass !== "RealismTrainLoRA") return;
    const button = node.addWidget("button", "Stop and keep", null, stopAndKeep, { serialize: false });
    button.serialize = false; // else its value would be sent with the workflow
    button.tooltip = "End the training after this step and go on with the LoRA as it is; Cancel ends the workflow.";
  },
});
