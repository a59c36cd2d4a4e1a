// The statistics of an extraction: a plot by layer, and all figures as a table.
import { useQuery } from "@tanstack/react-query";
import { Suspense, useId, useMemo, useState } from "react";
import { ErrorBoundary } from "react-error-boundary";
import type { ExtractionFile } from "../../gen/millm/inspection/v1/inspection_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { formatBytes } from "../../ui/format";
import { lazily } from "../../ui/lazily";
import { ScrollRegion } from "../../ui/scroll-region";
import {
  fetchStatistics,
  figureText,
  LARGEST_BYTES,
  METRICS,
  type Metric,
  plotOf,
  type Statistics,
} from "./statistics";

const LayerChart = lazily(() => import("./layer-chart"), "LayerChart");

interface Props {
  id: string;
  file: ExtractionFile;
}

export function StatisticsView({ id, file }: Props) {
  const fits = file.sizeBytes <= BigInt(LARGEST_BYTES);
  const { data, error, isFetching, refetch } = useQuery({
    // A job that is done again has other files.
    queryKey: ["statistics", id, file.sha256],
    queryFn: ({ signal }) => fetchStatistics(id, signal),
    enabled: fits,
    staleTime: Number.POSITIVE_INFINITY,
  });
  if (!fits) {
    return (
      <Callout tone="info">
        {`The statistics have ${formatBytes(Number(file.sizeBytes))}: too much for this page. Download ${file.name}.`}
      </Callout>
    );
  }
  if (data) {
    return <Figures statistics={data} />;
  }
  return error ? (
    <div className="flex flex-col items-start gap-3">
      <Callout tone="bad" alert>
        {error.message}
      </Callout>
      <Button label="Try again" busy={isFetching} onClick={() => void refetch()} />
    </div>
  ) : (
    <div aria-hidden className="h-72 animate-pulse rounded-lg bg-sunken" />
  );
}

function Figures({ statistics }: { statistics: Statistics }) {
  const selectId = useId();
  const [metric, setMetric] = useState<Metric>("mean");
  const plot = useMemo(() => plotOf(statistics, metric), [statistics, metric]);
  const label = METRICS.find(([each]) => each === metric)?.[1] ?? "";
  if (statistics.points.length === 0) {
    return <p className="text-sm text-ink-soft">There are no statistics.</p>;
  }
  return (
    <div className="flex flex-col gap-3">
      {plot.layers.length > 0 && (
        <>
          <div className="flex flex-wrap items-center gap-x-3 gap-y-2">
            <label htmlFor={selectId} className="text-sm font-medium text-ink-soft">
              Statistic
            </label>
            <select
              id={selectId}
              data-testid="metric-select"
              className="field w-auto!"
              value={metric}
              onChange={(event) => setMetric(event.target.value as Metric)}
            >
              {METRICS.map(([each, text]) => (
                <option key={each} value={each}>
                  {text}
                </option>
              ))}
            </select>
          </div>
          {metric === "sparsity" && statistics.sparsity !== "" && (
            <p className="text-xs text-ink-soft">{`Sparsity: ${statistics.sparsity}.`}</p>
          )}
          <ErrorBoundary
            fallback={<Callout tone="warn">The plot could not be drawn. The table has its numbers.</Callout>}
          >
            <Suspense fallback={<div aria-hidden className="h-72 animate-pulse rounded-lg bg-sunken" />}>
              <LayerChart title={label} plot={plot} />
            </Suspense>
          </ErrorBoundary>
        </>
      )}
      <FiguresTable statistics={statistics} open={plot.layers.length === 0} />
    </div>
  );
}

// Points that are shown before a person asks for more.
const MOST_POINTS = 200;

function FiguresTable({ statistics, open }: { statistics: Statistics; open: boolean }) {
  const [all, setAll] = useState(false);
  const { points } = statistics;
  const shown = all ? points : points.slice(0, MOST_POINTS);
  return (
    <details open={open} className="rounded-lg border border-line">
      <summary className="px-3 py-2 text-sm text-ink-soft">All figures as a table</summary>
      <ScrollRegion label="Statistics" className="max-h-128 rounded-t-none! border-t border-line">
        <table data-testid="statistics-table" className="w-full text-left text-xs tabular-nums">
          <thead className="sticky top-0 bg-raised whitespace-nowrap text-ink-faint">
            <tr className="*:px-3 *:py-1.5 *:font-medium">
              <th scope="col">Hook point</th>
              {METRICS.map(([metric, text]) => (
                <th key={metric} scope="col" className="text-right">
                  {text}
                </th>
              ))}
              <th scope="col" className="text-right">
                Tokens
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map(({ point, figures, tokens }) => (
              <tr key={point} className="border-t border-line *:px-3 *:py-1">
                <th scope="row" className="font-mono font-normal whitespace-nowrap">
                  {point}
                </th>
                {METRICS.map(([metric]) => (
                  <td key={metric} className="text-right">
                    {figureText(figures[metric])}
                  </td>
                ))}
                <td className="text-right">{tokens.toLocaleString("en")}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {shown.length < points.length && (
          <div className="p-2 text-center">
            <Button label={`Show all ${points.length} points`} onClick={() => setAll(true)} />
          </div>
        )}
      </ScrollRegion>
    </details>
  );
}
