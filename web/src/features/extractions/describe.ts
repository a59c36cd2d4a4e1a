// Extractions in words.
import { durationMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { ActivationType } from "../../gen/millm/catalog/v1/templates_pb";
import { type Extraction, Extraction_State } from "../../gen/millm/inspection/v1/inspection_pb";
import { formatBytes, formatSeconds, plural } from "../../ui/format";

const STATES: Record<Extraction_State, string> = {
  [Extraction_State.UNSPECIFIED]: "Unknown",
  [Extraction_State.QUEUED]: "Queued",
  [Extraction_State.RUNNING]: "Running",
  [Extraction_State.SUCCEEDED]: "Finished",
  [Extraction_State.FAILED]: "Failed",
  [Extraction_State.CANCELLED]: "Cancelled",
  [Extraction_State.INTERRUPTED]: "Interrupted",
};

export function stateLabel(state: Extraction_State): string {
  return STATES[state] ?? STATES[Extraction_State.UNSPECIFIED];
}

export function isActive({ state }: Extraction): boolean {
  return state === Extraction_State.QUEUED || state === Extraction_State.RUNNING;
}

export function isResumable({ state }: Extraction): boolean {
  return (
    state === Extraction_State.FAILED ||
    state === Extraction_State.CANCELLED ||
    state === Extraction_State.INTERRUPTED
  );
}

export function titleOf({ modelHandle, datasetHandle }: Extraction): string {
  return `${modelHandle || "A model"} over ${datasetHandle || "a dataset"}`;
}

// Of the samples, 0 to 1; undefined while their number is not known.
export function fractionOf({ samplesDone, samplesTotal }: Extraction): number | undefined {
  return samplesTotal > 0n ? Number(samplesDone) / Number(samplesTotal) : undefined;
}

// "120 of 1,000 samples • 61,440 tokens".
export function doneText(extraction: Extraction): string {
  const { samplesDone, samplesTotal, tokensDone, state } = extraction;
  if (samplesTotal === 0n) {
    return state === Extraction_State.QUEUED ? "Waits for its turn" : isActive(extraction) ? "Planning…" : "";
  }
  const samples =
    samplesDone === samplesTotal
      ? plural(Number(samplesTotal), "sample")
      : `${samplesDone.toLocaleString("en")} of ${plural(Number(samplesTotal), "sample")}`;
  return tokensDone > 0n ? `${samples} • ${plural(Number(tokensDone), "token")}` : samples;
}

// "41.2 samples/s • 21 s left"; nothing once it is over.
export function paceText(extraction: Extraction): string {
  if (!isActive(extraction)) {
    return "";
  }
  const { samplesPerSecond, timeLeft } = extraction;
  const parts: string[] = [];
  if (samplesPerSecond > 0) {
    parts.push(`${samplesPerSecond.toFixed(samplesPerSecond < 10 ? 1 : 0)} samples/s`);
  }
  if (timeLeft) {
    parts.push(`${formatSeconds(durationMs(timeLeft) / 1000)} left`);
  }
  return parts.join(" • ");
}

// "residual, mlp • layers 0,5-10 • f16".
export function settingsText({ config }: Extraction): string {
  const settings = config?.settings;
  if (!settings) {
    return "";
  }
  const parts = [shortList(settings.points)];
  if (settings.layers !== "") {
    parts.push(settings.layers === "all" ? "all layers" : `layers ${settings.layers}`);
  }
  const dtype = dtypeLabel(settings.dtype);
  if (dtype !== "") {
    parts.push(dtype);
  }
  return parts.filter(Boolean).join(" • ");
}

const MOST_NAMES = 6;

export function shortList(names: readonly string[]): string {
  const rest = names.length - MOST_NAMES;
  const shown = names.slice(0, MOST_NAMES).join(", ");
  return rest > 0 ? `${shown} and ${rest} more` : shown;
}

const TYPES: Partial<Record<ActivationType, string>> = {
  [ActivationType.F32]: "f32",
  [ActivationType.F16]: "f16",
  [ActivationType.BF16]: "bf16",
};

export function dtypeLabel(dtype: ActivationType): string {
  return TYPES[dtype] ?? "";
}

// When it was made, and how long it took: "12 May 2025, 14:30 • took 21 s • 1.2 GB".
export function historyText({ createTime, startTime, endTime, diskBytes }: Extraction): string {
  const parts: string[] = [];
  if (createTime) {
    parts.push(
      new Date(timestampMs(createTime)).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
    );
  }
  if (startTime && endTime) {
    parts.push(`took ${formatSeconds((timestampMs(endTime) - timestampMs(startTime)) / 1000)}`);
  }
  if (diskBytes > 0n) {
    parts.push(formatBytes(Number(diskBytes)));
  }
  return parts.join(" • ");
}

// The id in "extractions/{id}".
export function idOf(name: string): string {
  return name.split("/").at(-1) ?? "";
}
