// The pack's entries in ComfyUI's settings dialog; nodes/audit.py reads them.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "RealismKit",
  settings: [
    {
      id: "RealismKit.AuditPurpose",
      category: ["Realism Kit", "Audit log", "Purpose"],
      name: "Purpose of the pictures",
      tooltip: "Written with every decision that is logged, unless a gate names a purpose of its own.",
      type: "text",
      defaultValue: "",
    },
    {
      id: "RealismKit.Audit",
      category: ["Realism Kit", "Audit log", "Log"],
      name: "Log every decision of Realism Gate",
      tooltip:
        "In user/realism/audit.sqlite: scores, rule, seeds, models, never the pictures. " +
        "A gate's own switch comes first.",
      type: "boolean",
      defaultValue: false,
    },
  ],
});
