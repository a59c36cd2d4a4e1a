// Asks before a dataset goes, and says what goes with it.
import { useMutation } from "@connectrpc/connect-query";
import { Trash2 } from "lucide-react";
import { useRelist } from "../../api/lists";
import { Source } from "../../gen/millm/catalog/v1/catalog_pb";
import { type Dataset, Dataset_State } from "../../gen/millm/catalog/v1/datasets_pb";
import { DownloaderService } from "../../gen/millm/downloader/v1/downloader_pb";
import { Button } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { formatBytes } from "../../ui/format";
import { bytesOf, originOf } from "./describe";

interface Props {
  dataset: Dataset;
  onClose(): void;
}

export function DeleteDatasetDialog({ dataset, onClose }: Props) {
  const relist = useRelist("datasets");
  const remove = useMutation(DownloaderService.method.removeDataset, {
    onSettled: async () => {
      await relist();
      onClose();
    },
  });
  return (
    <Dialog
      title={`Delete ${dataset.handle}?`}
      onClose={onClose}
      actions={
        <>
          <Button label="Keep" data-autofocus onClick={onClose} />
          <Button
            label="Delete"
            icon={Trash2}
            look="danger"
            data-testid="confirm-delete-dataset-btn"
            busy={remove.isPending}
            onClick={() => remove.mutate({ name: dataset.name })}
          />
        </>
      }
    >
      <p>{consequence(dataset)}</p>
      <p className="mt-2 font-mono text-xs wrap-anywhere text-ink-faint">{originOf(dataset)}</p>
    </Dialog>
  );
}

function consequence(dataset: Dataset): string {
  if (dataset.source === Source.LOCAL) {
    return "The dataset leaves this list. Its files are yours and stay where they are.";
  }
  if (dataset.state === Dataset_State.PENDING) {
    return "Its download stops, and what has arrived is removed from disk.";
  }
  const bytes = bytesOf(dataset);
  const freed = bytes > 0 ? `, which frees ${formatBytes(bytes)}` : "";
  return `Its files are removed from disk${freed}. Extractions that were made with it stay.`;
}
