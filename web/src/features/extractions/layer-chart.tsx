// A figure by layer, one line for each hook point. The table beside it has the same numbers.
import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { figureText, type LayerPlot, plotText } from "./statistics";

const HEIGHT = 280;
const COLOURS = 6;
// Lines also differ without colours.
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

interface Props {
  title: string;
  plot: LayerPlot;
}

export function LayerChart({ title, plot }: Props) {
  const place = useRef<HTMLDivElement>(null);
  // The layer at the pointer, by its place.
  const [pointed, setPointed] = useState<number>();

  useEffect(() => {
    const element = place.current;
    if (!element) {
      return;
    }
    const chart = new uPlot(optionsOf(plot, element.clientWidth, setPointed), dataOf(plot), element);
    const resized = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    // Colours are read when it is drawn.
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => chart.redraw(false);
    scheme.addEventListener("change", redraw);
    return () => {
      scheme.removeEventListener("change", redraw);
      resized.disconnect();
      chart.destroy();
    };
  }, [plot]);

  return (
    <figure className="flex flex-col gap-2">
      <div
        ref={place}
        role="img"
        aria-label={`${title} by layer: ${plotText(plot)}`}
        className="min-w-0 overflow-hidden"
        style={{ minHeight: HEIGHT }}
      />
      <figcaption className="text-xs text-ink-soft">
        <ul aria-label="Lines" className="flex flex-wrap gap-x-4 gap-y-1">
          {plot.series.map(({ name, values }, index) => (
            <li key={name} className="flex items-center gap-1.5">
              <svg aria-hidden viewBox="0 0 24 4" className="h-1 w-6">
                <line
                  x1="0"
                  y1="2"
                  x2="24"
                  y2="2"
                  stroke={`var(${colourOf(index)})`}
                  strokeWidth="3"
                  strokeDasharray={dashOf(index).join(" ")}
                />
              </svg>
              <span className="font-mono">{name}</span>
              {pointed !== undefined && (
                <span className="font-medium text-ink tabular-nums">{figureText(values[pointed])}</span>
              )}
            </li>
          ))}
          <li className="ml-auto tabular-nums" aria-hidden>
            {pointed === undefined ? "" : `L${plot.layers[pointed]}`}
          </li>
        </ul>
      </figcaption>
    </figure>
  );
}

function colourOf(index: number): string {
  return `--plot-${(index % COLOURS) + 1}`;
}

function dashOf(index: number): number[] {
  return DASHES[index % DASHES.length] ?? [];
}

function themeColour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function dataOf({ layers, series }: LayerPlot): uPlot.AlignedData {
  return [layers, ...series.map(({ values }) => values)];
}

function optionsOf(
  { layers, series }: LayerPlot,
  width: number,
  point: (index: number | undefined) => void,
): uPlot.Options {
  const axis = {
    stroke: () => themeColour("--color-ink-soft"),
    grid: { stroke: () => themeColour("--color-line"), width: 1 },
    ticks: { stroke: () => themeColour("--color-line"), width: 1 },
    font: "12px ui-sans-serif, system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { drag: { x: false, y: false } },
    scales: {
      // Half a layer at each end: a single layer has a place as well.
      x: { time: false, range: (_chart, min, max) => [min - 0.5, max + 0.5] },
    },
    axes: [
      {
        ...axis,
        incrs: [1, 2, 4, 5, 8, 10, 16, 20, 32],
        values: (_chart, places) => places.map((layer) => (Number.isInteger(layer) ? `L${layer}` : "")),
      },
      { ...axis, size: 64, values: (_chart, places) => places.map((value) => SHORT.format(value)) },
    ],
    series: [
      {},
      ...series.map(
        ({ name }, index): uPlot.Series => ({
          label: name,
          stroke: () => themeColour(colourOf(index)),
          width: 2,
          dash: dashOf(index),
          spanGaps: false,
          points: { show: layers.length <= 60, size: 6, fill: () => themeColour(colourOf(index)) },
        }),
      ),
    ],
    hooks: { setCursor: [({ cursor }) => point(cursor.idx ?? undefined)] },
  };
}
