// The line that is on every page: which model is loaded, how full the memory is, and whether this is current.
import { WifiOff } from "lucide-react";
import { useLive } from "../api/context";
import type { ModelView } from "../api/join";
import type { Device } from "../gen/millm/runtime/v1/runtime_pb";
import { formatBytesOf } from "../ui/format";

export function StatusBar() {
  const { models, devices, lost, settled } = useLive();
  return (
    <section
      aria-label="Server status"
      className="flex min-w-0 flex-wrap items-center gap-x-5 gap-y-1 text-sm max-sm:w-full"
    >
      <LoadedName models={models} known={settled} />
      {devices.map((device) => (
        <Memory key={device.id} device={device} />
      ))}
      <Connection lost={lost.length > 0} />
    </section>
  );
}

function LoadedName({ models, known }: { models: readonly ModelView[]; known: boolean }) {
  const loaded = models.filter((model) => model.status === "loaded");
  const moving = models.find((model) => model.status === "loading" || model.status === "unloading");
  const dot = loaded.length > 0 ? "bg-good" : moving ? "bg-warn-fill animate-pulse" : "bg-line-strong";
  const text =
    loaded.length > 0
      ? loaded.map((model) => model.handle).join(", ")
      : moving
        ? `${moving.status === "loading" ? "Loading" : "Unloading"} ${moving.handle}…`
        : known
          ? "No model loaded"
          : "…";
  return (
    <span className="flex min-w-0 items-center gap-2">
      <span aria-hidden className={`size-2 shrink-0 rounded-full ${dot}`} />
      <span
        role="status"
        data-testid="status-bar-model"
        className={`truncate ${loaded.length > 0 ? "font-medium" : "text-ink-soft"}`}
      >
        {text}
      </span>
    </span>
  );
}

function Memory({ device }: { device: Device }) {
  const used = Number(device.usedBytes);
  const total = Number(device.totalBytes);
  if (total <= 0) {
    return null;
  }
  const text = formatBytesOf(used, total);
  const full = used / total;
  return (
    <span className="flex items-center gap-2 text-ink-soft" title={device.name}>
      <span className="text-xs font-medium uppercase">{device.id}</span>
      {/* biome-ignore lint/a11y/useSemanticElements: <meter> cannot be given our look in every browser. */}
      <span
        role="meter"
        aria-label={`Memory of ${device.id}`}
        aria-valuemin={0}
        aria-valuemax={total}
        aria-valuenow={used}
        aria-valuetext={text}
        className="h-1.5 w-16 overflow-hidden rounded-full bg-sunken ring-1 ring-line ring-inset"
      >
        <span
          className={`block h-full rounded-full ${full > 0.9 ? "bg-bad" : "bg-accent"}`}
          style={{ width: `${Math.min(100, full * 100)}%` }}
        />
      </span>
      <span className="text-xs tabular-nums whitespace-nowrap">{text}</span>
    </span>
  );
}

function Connection({ lost }: { lost: boolean }) {
  return (
    <span role="status" className="text-xs" data-testid="connection">
      {lost && (
        <span className="flex items-center gap-1.5 rounded-full bg-warn-soft px-2.5 py-0.5 font-medium text-warn">
          <WifiOff aria-hidden className="size-3.5" />
          Reconnecting…
        </span>
      )}
    </span>
  );
}
