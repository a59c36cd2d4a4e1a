// The statistics of an extraction, read from its statistics.json.
import { fileUrl } from "./files-table";

export const STATISTICS_FILE = "statistics.json";
// Larger ones are only downloaded.
export const LARGEST_BYTES = 128 << 20;

const VERSION = 1;

export const METRICS = [
  ["mean", "Mean"],
  ["max", "Max"],
  ["standardDeviation", "Standard deviation"],
  ["sparsity", "Sparsity"],
  ["norm", "Norm (mean)"],
] as const;

export type Metric = (typeof METRICS)[number][0];

export interface PointFigures {
  // "resid_post.3", "logits".
  point: string;
  // "resid_post".
  name: string;
  // Undefined for points of the whole model.
  layer: number | undefined;
  tokens: number;
  // Undefined where there were no activations.
  figures: Readonly<Record<Metric, number | undefined>>;
}

export interface Statistics {
  points: readonly PointFigures[];
  // What sparsity means, in the file's own words.
  sparsity: string;
}

export async function fetchStatistics(id: string, signal: AbortSignal): Promise<Statistics> {
  const response = await fetch(fileUrl(id, STATISTICS_FILE), { signal });
  if (!response.ok) {
    throw new Error(await refusalOf(response));
  }
  return parseStatistics(await response.json());
}

// The sentence of the management API's envelope.
async function refusalOf(response: Response): Promise<string> {
  const body = record(await response.json().catch(() => undefined));
  const message = record(body.error).message;
  return typeof message === "string" && message !== ""
    ? message
    : `The server answered with ${response.status} ${response.statusText}`.trim();
}

export function parseStatistics(json: unknown): Statistics {
  const { version, points, definitions } = record(json);
  if (version !== VERSION) {
    throw new Error(`The statistics have version ${String(version)}; this page reads version ${VERSION}.`);
  }
  const { sparsity } = record(definitions);
  return {
    points: (Array.isArray(points) ? points : []).map(figuresOf),
    sparsity: typeof sparsity === "string" ? sparsity : "",
  };
}

function figuresOf(json: unknown): PointFigures {
  const report = record(json);
  const point = typeof report.point === "string" ? report.point : "";
  const [, name = point, layer] = /^(.*)\.(\d+)$/.exec(point) ?? [];
  return {
    point,
    name,
    layer: layer === undefined ? undefined : Number(layer),
    tokens: number(report.tokens) ?? 0,
    figures: {
      mean: number(report.mean),
      max: number(report.max),
      standardDeviation: number(report.standard_deviation),
      sparsity: number(report.sparsity),
      norm: number(record(report.norm).mean),
    },
  };
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

export interface Series {
  name: string;
  // One for each layer; null where the layer has no such point.
  values: (number | null)[];
}

export interface LayerPlot {
  layers: number[];
  series: Series[];
}

// One figure by layer, one series for each hook point, in the order of the file.
export function plotOf({ points }: Statistics, metric: Metric): LayerPlot {
  const layered = points.filter(({ layer }) => layer !== undefined);
  const layers = [...new Set(layered.map(({ layer }) => layer as number))].sort((a, b) => a - b);
  const place = new Map(layers.map((layer, index) => [layer, index]));
  const series = new Map<string, (number | null)[]>();
  for (const { name, layer, figures } of layered) {
    const values = series.get(name) ?? layers.map(() => null);
    values[place.get(layer as number) as number] = figures[metric] ?? null;
    series.set(name, values);
  }
  return { layers, series: [...series].map(([name, values]) => ({ name, values })) };
}

const FIGURE = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

// "0.01234", "1,235", "1.2e-9"; "–" for none.
export function figureText(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return "–";
  }
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e7) ? value.toExponential(3) : FIGURE.format(value);
}

// A plot in words: "resid_post from 0.1 (L0) to 3.2 (L11)".
export function plotText({ layers, series }: LayerPlot): string {
  return series
    .map(({ name, values }) => {
      const first = values.findIndex((value) => value !== null);
      const last = values.findLastIndex((value) => value !== null);
      return first < 0
        ? `${name} without values`
        : `${name} from ${figureText(values[first])} (L${layers[first]}) to ${figureText(values[last])} (L${layers[last]})`;
    })
    .join("; ");
}
