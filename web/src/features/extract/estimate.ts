// What the extraction would take, asked for again while the choices change.
import { create, toJsonString } from "@bufbuild/protobuf";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { type Problem, problemOf, problemOfStatus } from "../../api/errors";
import type { ModelView } from "../../api/join";
import {
  ExtractionConfigSchema,
  type ExtractionEstimate,
  InspectionService,
} from "../../gen/millm/inspection/v1/inspection_pb";
import { formatBytes, formatBytesOf, formatSeconds, plural } from "../../ui/format";
import { useDebounced } from "../../ui/use-debounced";
import { configOf, type ExtractDraft } from "./draft";

export interface Estimating {
  estimate: ExtractionEstimate | undefined;
  // Why the extraction would be refused.
  obstacles: readonly Problem[];
  // An answer to earlier choices is shown, or none.
  pending: boolean;
}

// `complete` says whether the draft can be asked about.
export function useEstimate(model: ModelView, draft: ExtractDraft, complete: boolean): Estimating {
  const transport = useTransport();
  const config = create(ExtractionConfigSchema, complete ? configOf(model.name, draft) : {});
  const wanted = complete ? toJsonString(ExtractionConfigSchema, config) : "";
  const asked = useDebounced(wanted);
  const settled = asked === wanted;
  const { data, error, isPlaceholderData } = useQuery({
    // Whether the model is loaded decides about obstacles.
    queryKey: ["estimate", model.status, asked],
    queryFn: ({ signal }) =>
      callUnaryMethod(transport, InspectionService.method.estimateExtraction, { config }, { signal }),
    enabled: complete && settled,
    placeholderData: keepPreviousData,
    // The disk and the memory change by themselves.
    gcTime: 0,
  });
  if (!complete) {
    return { estimate: undefined, obstacles: [], pending: false };
  }
  const refused = settled && error ? problemOf(error) : null;
  return {
    estimate: refused ? undefined : data,
    obstacles: refused ? [refused] : obstaclesOf(data),
    pending: !settled || isPlaceholderData || (!data && !error),
  };
}

function obstaclesOf(estimate: ExtractionEstimate | undefined): Problem[] {
  return (estimate?.obstacles ?? []).flatMap((status) => problemOfStatus(status) ?? []);
}

// The figures with their names, in the order in which they are read.
export function estimateRows(estimate: ExtractionEstimate): [string, string][] {
  const { samples, sequenceLength, batchSize, points, diskBytes, availableDiskBytes, memoryBytes, time } =
    estimate;
  const free = Number(availableDiskBytes);
  return [
    ["Samples", `${samples.toLocaleString("en")} × ${plural(sequenceLength, "token")}`],
    ["Arrays", `${points.length.toLocaleString("en")}, in batches of ${plural(batchSize, "sample")}`],
    ["Disk", free > 0 ? `${formatBytesOf(Number(diskBytes), free)} free` : formatBytes(Number(diskBytes))],
    ["Extra memory", formatBytes(Number(memoryBytes))],
    ["Time", time ? timeText(time) : "not known yet"],
  ];
}

// "1,000 samples • 9.0 GB on disk • about 2 min 10 s".
export function estimateText({ samples, diskBytes, time }: ExtractionEstimate): string {
  const parts = [plural(Number(samples), "sample"), `${formatBytes(Number(diskBytes))} on disk`];
  if (time) {
    parts.push(timeText(time));
  }
  return parts.join(" • ");
}

function timeText(time: Duration): string {
  return `about ${formatSeconds(Math.max(1, durationMs(time) / 1000))}`;
}
