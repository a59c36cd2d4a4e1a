// The warning before loading a model that does not fit: what it takes, what there is, and the choice.
import { Play } from "lucide-react";
import type { ModelView } from "../../api/join";
import type { MemoryEstimate } from "../../gen/millm/runtime/v1/runtime_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Dialog } from "../../ui/dialog";
import { formatBytes } from "../../ui/format";

interface Props {
  model: ModelView;
  estimate: MemoryEstimate;
  onLoad(): void;
  onClose(): void;
}

export function MemoryDialog({ model, estimate, onLoad, onClose }: Props) {
  const needed = formatBytes(Number(estimate.totalBytes));
  const available = formatBytes(Number(estimate.availableBytes));
  return (
    <Dialog
      title="Not enough memory"
      onClose={onClose}
      actions={
        <>
          <Button label="Do not load" data-autofocus onClick={onClose} />
          <Button
            label="Load anyway"
            icon={Play}
            look="danger"
            data-testid="load-anyway-btn"
            onClick={onLoad}
          />
        </>
      }
    >
      <div className="flex flex-col gap-4">
        <Callout tone="warn">
          {estimate.warning ||
            `${model.handle} requires ~${needed}, only ${available} available. Loading may fail or make the system unstable.`}
        </Callout>
        <dl className="grid grid-cols-[1fr_auto] gap-x-6 gap-y-1 tabular-nums">
          <Row name="Weights" bytes={estimate.weightsBytes} />
          <Row name="KV cache" bytes={estimate.kvCacheBytes} />
          <Row name="Activations" bytes={estimate.activationsBytes} />
          <Row name="Overhead" bytes={estimate.overheadBytes} />
          <Row name="Needed" bytes={estimate.totalBytes} strong />
          <Row
            name={estimate.device ? `Available on ${estimate.device}` : "Available"}
            bytes={estimate.availableBytes}
          />
        </dl>
      </div>
    </Dialog>
  );
}

function Row({ name, bytes, strong = false }: { name: string; bytes: bigint; strong?: boolean }) {
  const look = strong ? "border-t border-line pt-1 font-semibold" : "text-ink-soft";
  return (
    <>
      <dt className={look}>{name}</dt>
      <dd className={`text-right ${look}`}>{formatBytes(Number(bytes))}</dd>
    </>
  );
}
