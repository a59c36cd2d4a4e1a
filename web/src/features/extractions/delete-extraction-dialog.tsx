// Asks before an extraction goes with its files.
import { useMutation } from "@connectrpc/connect-query";
import { Trash2 } from "lucide-react";
import { type Extraction, InspectionService } from "../../gen/millm/inspection/v1/inspection_pb";
import { Button } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { formatBytes } from "../../ui/format";
import { titleOf } from "./describe";
import { useForget } from "./listing";

interface Props {
  extraction: Extraction;
  onClose(): void;
  onDeleted?: () => void;
}

export function DeleteExtractionDialog({ extraction, onClose, onDeleted }: Props) {
  const forget = useForget();
  const remove = useMutation(InspectionService.method.deleteExtraction, {
    onSuccess: async () => {
      onDeleted?.();
      await forget(extraction.id);
    },
    onSettled: onClose,
  });
  const bytes = Number(extraction.diskBytes);
  return (
    <Dialog
      title="Delete this extraction?"
      onClose={onClose}
      actions={
        <>
          <Button label="Keep" data-autofocus onClick={onClose} />
          <Button
            label="Delete"
            icon={Trash2}
            look="danger"
            data-testid="confirm-delete-extraction-btn"
            busy={remove.isPending}
            onClick={() => remove.mutate({ name: extraction.name || extraction.id })}
          />
        </>
      }
    >
      <p>
        {`${titleOf(extraction)}: its files are removed from disk${bytes > 0 ? `, which frees ${formatBytes(bytes)}` : ""}.`}
      </p>
    </Dialog>
  );
}
