// How far a model has come: a bar and the figures that matter at this stage.
import type { Arrival, ModelStatus } from "../../api/join";
import { formatBytesOf, formatSeconds, formatSpeed } from "../../ui/format";
import { Progress } from "../../ui/progress";

interface Props {
  handle: string;
  status: ModelStatus;
  arrival: Arrival;
}

export function ArrivalProgress({ handle, status, arrival }: Props) {
  if (status === "queued") {
    return <p className="text-sm text-ink-soft">{queueText(arrival)}</p>;
  }
  return (
    <div className="flex flex-col gap-1.5">
      <Progress
        label={`${handle}: ${status}`}
        fraction={arrival.fraction}
        tone={arrival.stalled ? "warn" : "accent"}
      />
      <p className="flex flex-wrap justify-between gap-x-4 text-xs tabular-nums text-ink-soft">
        <span>{left(status, arrival)}</span>
        <span className={arrival.stalled ? "font-medium text-warn" : ""}>{right(status, arrival)}</span>
      </p>
    </div>
  );
}

function queueText({ queuePosition, estimatedStart }: Arrival): string {
  const place = queuePosition > 1 ? `number ${queuePosition} in the queue` : "next in the queue";
  const seconds = estimatedStart === undefined ? 0 : Math.round((estimatedStart - Date.now()) / 1000);
  return `Waiting: ${place}${seconds > 0 ? `, begins in about ${formatSeconds(seconds)}` : ""}`;
}

function left(status: ModelStatus, arrival: Arrival): string {
  const percent = arrival.fraction === undefined ? "" : `${Math.round(arrival.fraction * 100)}%`;
  if (status === "downloading" && arrival.totalBytes > 0) {
    return `${percent} • ${formatBytesOf(arrival.downloadedBytes, arrival.totalBytes)}`;
  }
  return [percent, arrival.detail || (status === "downloading" ? "Asking Hugging Face" : "")]
    .filter((part) => part !== "")
    .join(" • ");
}

function right(status: ModelStatus, arrival: Arrival): string {
  const parts: string[] = [];
  if (arrival.stalled) {
    parts.push("Stalled");
  } else if (status === "downloading" && arrival.bytesPerSecond > 0) {
    parts.push(formatSpeed(arrival.bytesPerSecond));
  }
  if (arrival.retries > 0 && arrival.stalled) {
    parts.push(arrival.retries === 1 ? "1 retry" : `${arrival.retries} retries`);
  }
  if (arrival.secondsLeft > 0 && !arrival.stalled) {
    parts.push(`${formatSeconds(arrival.secondsLeft)} left`);
  }
  return parts.join(" • ");
}
