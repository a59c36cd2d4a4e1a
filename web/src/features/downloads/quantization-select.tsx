// The choice of a quantization, with what each one is good for.
import { Quantization } from "../../gen/millm/catalog/v1/catalog_pb";
import { Field } from "../../ui/field";

const HUB: [Quantization, string][] = [
  [Quantization.Q4, "Q4 – 4-bit (recommended)"],
  [Quantization.Q2, "Q2 – 2-bit, smallest"],
  [Quantization.Q8, "Q8 – 8-bit, near lossless"],
  [Quantization.FP16, "FP16 – half precision"],
  [Quantization.NATIVE, "Native – as published"],
];

// A local model is quantized when it is added: the copy goes into the models folder.
const LOCAL: [Quantization, string][] = [
  [Quantization.NATIVE, "Native – as it is"],
  [Quantization.Q4, "Q4 – 4-bit copy"],
  [Quantization.Q2, "Q2 – 2-bit copy"],
  [Quantization.Q8, "Q8 – 8-bit copy"],
  [Quantization.FP16, "FP16 – half-precision copy"],
];

interface Props {
  source: "hub" | "local";
  value: Quantization;
  onChange(value: Quantization): void;
}

export function QuantizationSelect({ source, value, onChange }: Props) {
  return (
    <Field label="Quantization">
      {(control) => (
        <select
          {...control}
          data-testid="quantization-select"
          className="field"
          value={value}
          onChange={(event) => onChange(Number(event.target.value))}
        >
          {(source === "hub" ? HUB : LOCAL).map(([quantization, text]) => (
            <option key={quantization} value={quantization}>
              {text}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}
