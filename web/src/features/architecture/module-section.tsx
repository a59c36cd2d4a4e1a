// One module with its tensors.
import type { ModuleDescription, TensorDescription } from "../../gen/millm/inspection/v1/inspection_pb";
import { formatBytes } from "../../ui/format";
import { ScrollRegion } from "../../ui/scroll-region";
import { factsOfModule, moduleName, shapeText } from "./describe";

export function ModuleSection({ module }: { module: ModuleDescription }) {
  const name = moduleName(module.name);
  return (
    <div className="flex flex-col gap-2 p-4">
      <p className="flex flex-wrap items-baseline gap-x-3 text-sm">
        <span className="font-medium">{name}</span>
        {name !== module.name && <span className="font-mono text-xs text-ink-faint">{module.name}</span>}
        <span className="text-xs text-ink-faint tabular-nums">{factsOfModule(module)}</span>
      </p>
      <TensorTable label={`Tensors: ${name}`} tensors={module.tensors} />
    </div>
  );
}

function TensorTable({ label, tensors }: { label: string; tensors: readonly TensorDescription[] }) {
  return (
    <ScrollRegion label={label} className="border border-line">
      <table className="w-full text-left text-xs whitespace-nowrap tabular-nums">
        <thead className="bg-raised text-ink-faint">
          <tr className="*:px-3 *:py-1.5 *:font-medium">
            <th scope="col">Tensor</th>
            <th scope="col">Shape</th>
            <th scope="col">Type</th>
            <th scope="col" className="text-right">
              Parameters
            </th>
            <th scope="col" className="text-right">
              Size
            </th>
          </tr>
        </thead>
        <tbody>
          {tensors.map((tensor) => (
            <tr key={tensor.name} className="border-t border-line *:px-3 *:py-1.5">
              <th scope="row" className="font-mono font-normal">
                {tensor.name}
              </th>
              <td>{shapeText(tensor.shape)}</td>
              <td>{tensor.dtype}</td>
              <td className="text-right">{tensor.parameterCount.toLocaleString("en")}</td>
              <td className="text-right">{formatBytes(Number(tensor.bytes))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollRegion>
  );
}
