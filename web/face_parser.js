// The button on Realism Parse Face that fetches a model; nodes/parser_download.py answers.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NAME = "Download model";
const QUESTION =
  "Fetch jonathandinu/face-parsing (339 MB) from the Hugging Face hub into models/face_parsing? " +
  "It was trained on CelebAMask-HQ, whose pictures are for non-commercial research.";
const POLL = 1000;
let watching = false;
let stopping = false; // the server stops when the next part has arrived

const tell = (severity, detail) =>
  app.extensionManager.toast.add({ severity, summary: "Realism Kit", detail, life: severity === "error" ? 20000 : 5000 });

async function ask(what) {
  const response = await api.fetchApi(`/realism/face_parser/${what}`, { method: "POST" });
  return await response.json();
}

const buttons = () =>
  app.graph.nodes.filter((node) => node.comfyClass === "RealismParseFace")
    .map((node) => node.widgets.find((widget) => widget.type === "button" && widget.realismDownload))
    .filter(Boolean);

function label(text) {
  for (const button of buttons()) button.label = text;
  app.graph.setDirtyCanvas(true);
}

async function watch(told, node) {
  watching = true;
  try {
    while (told.state === "running") {
      const share = told.total ? ` ${Math.floor((100 * told.done) / told.total)} %` : "";
      label(stopping ? `Stopping${share}` : `Downloading${share}: press to stop`);
      await new Promise((resolve) => setTimeout(resolve, POLL));
      told = await ask("state");
    }
    if (told.state === "done") {
      await app.refreshComboInNodes();
      const model = node.widgets.find((widget) => widget.name === "model");
      if (model) model.value = told.name;
      tell("success", `The model is in models/face_parsing/${told.name}.`);
    } else if (told.state === "stopped") {
      tell("info", "The download was stopped; press again to go on with it.");
    } else if (told.state === "failed") {
      tell("error", told.error);
    }
  } finally {
    watching = stopping = false;
    label(NAME);
  }
}

async function press(node) {
  try {
    if (watching) {
      stopping = true;
      label("Stopping");
      await ask("stop");
      return;
    }
    const wanted = await app.extensionManager.dialog.confirm({ title: NAME, message: QUESTION });
    if (wanted) await watch(await ask("start"), node);
  } catch (error) {
    tell("error", `The server did not answer (${error}).`);
  }
}

app.registerExtension({
  name: "RealismKit.FaceParser",
  nodeCreated(node) {
    if (node.comfyClass !== "RealismParseFace") return;
    const button = node.addWidget("button", NAME, null, () => press(node), { serialize: false });
    button.serialize = false; // else its value would be sent with the workflow
    button.realismDownload = true;
    button.tooltip = "Fetch a face parsing model from the Hugging Face hub, once; nothing is fetched before.";
  },
});
