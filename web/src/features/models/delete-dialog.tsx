// Asks before a model goes, and says what goes with it.
import { Trash2 } from "lucide-react";
import type { ModelView } from "../../api/join";
import { Button } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { formatBytes } from "../../ui/format";
import type { ModelActions } from "./actions";

interface Props {
  model: ModelView;
  actions: ModelActions;
  onClose(): void;
}

export function DeleteDialog({ model, actions, onClose }: Props) {
  return (
    <Dialog
      title={`Delete ${model.handle}?`}
      onClose={onClose}
      actions={
        <>
          <Button label="Keep" data-autofocus onClick={onClose} />
          <Button
            label="Delete"
            icon={Trash2}
            look="danger"
            data-testid="confirm-delete-btn"
            busy={actions.busy.has("delete")}
            onClick={() => actions.remove(onClose)}
          />
        </>
      }
    >
      <p>{consequence(model)}</p>
      <p className="mt-2 font-mono text-xs wrap-anywhere text-ink-faint">{model.origin}</p>
    </Dialog>
  );
}

function consequence(model: ModelView): string {
  if (model.source === "local") {
    return "The model leaves this list. Its files are yours and stay where they are.";
  }
  if (model.diskBytes > 0) {
    return `Its files are removed from disk, which frees ${formatBytes(model.diskBytes)}. To use it again, download it again.`;
  }
  return "Its files are removed from disk. To use it again, download it again.";
}
