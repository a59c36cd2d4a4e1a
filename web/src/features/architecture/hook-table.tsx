// The hook points of a layer, or of the whole model: what can be read, and what can be changed.
import type { HookPoint } from "../../gen/millm/inspection/v1/inspection_pb";
import { ScrollRegion } from "../../ui/scroll-region";
import { shapeText } from "./describe";

export function HookTable({ points }: { points: readonly HookPoint[] }) {
  if (points.length === 0) {
    return null;
  }
  return (
    <div className="flex flex-col gap-2 p-4">
      <p className="text-sm font-medium">Hook points</p>
      <ScrollRegion label="Hook points" className="border border-line">
        <table className="w-full text-left text-xs tabular-nums">
          <thead className="bg-raised whitespace-nowrap text-ink-faint">
            <tr className="*:px-3 *:py-1.5 *:font-medium">
              <th scope="col">Hook point</th>
              <th scope="col">In TransformerLens</th>
              <th scope="col">Shape of a token</th>
              <th scope="col">Can be changed</th>
              <th scope="col" className="min-w-56">
                About
              </th>
            </tr>
          </thead>
          <tbody>
            {points.map((point) => (
              <tr key={point.name} className="border-t border-line *:px-3 *:py-1.5">
                <th scope="row" className="font-mono font-normal whitespace-nowrap">
                  {point.name}
                </th>
                <td className="font-mono whitespace-nowrap">{point.transformerLens || "–"}</td>
                <td className="whitespace-nowrap">{shapeText(point.shape)}</td>
                <td>{point.writable ? "Yes" : "No"}</td>
                <td className="text-ink-soft">{point.about}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </ScrollRegion>
    </div>
  );
}
