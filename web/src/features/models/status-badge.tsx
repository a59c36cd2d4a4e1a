// The state of a model as a word; the colour only repeats it.
import { type ModelStatus, statusLabel } from "../../api/join";

const LOOKS: Record<ModelStatus, string> = {
  queued: "bg-sunken text-ink-soft",
  downloading: "bg-warn-soft text-warn",
  verifying: "bg-warn-soft text-warn",
  quantizing: "bg-warn-soft text-warn",
  ready: "bg-accent-soft text-accent-strong",
  loading: "bg-warn-soft text-warn",
  loaded: "bg-good-soft text-good",
  unloading: "bg-warn-soft text-warn",
  error: "bg-bad-soft text-bad",
};

export function StatusBadge({ status }: { status: ModelStatus }) {
  return (
    <span
      data-testid="model-status"
      className={`shrink-0 rounded-full px-2.5 py-0.5 text-xs font-semibold ${LOOKS[status]}`}
    >
      {statusLabel(status)}
    </span>
  );
}
