// A picture of the stack, from the tokens at the top to the logits at the bottom. Each block tells of itself when the
// pointer or the keyboard is on it, and a layer's block leads to the layer's entry below.
import { ChevronDown, Plus } from "lucide-react";
import { useId, useMemo, useState } from "react";
import type {
  LayerDescription,
  ModelDescription,
  ModuleDescription,
} from "../../gen/millm/inspection/v1/inspection_pb";
import { plural } from "../../ui/format";
import { factsOfModule, moduleName, shareText } from "./describe";
import { type Folded, foldLayers, nameWithoutLayer, runText, structureOf } from "./fold";

interface Told {
  title: string;
  facts: string;
}

type Tell = (told: Told) => void;

export function StackPicture({ model }: { model: ModelDescription }) {
  const titleId = useId();
  const [told, setTold] = useState<Told>();
  const folded = useMemo(() => foldLayers(model.layers, structureOf), [model.layers]);
  const global = new Map(model.modules.map((module) => [module.name, module]));
  const whole = model.weightsBytes;
  const outputTold = {
    title: "Output",
    facts: "The logits of the next token. It shares its weights with the embedding.",
  };
  return (
    <section aria-labelledby={titleId} className="card p-4 sm:p-5">
      <h2 id={titleId} className="font-semibold">
        Stack
      </h2>
      <div className="mt-3 grid gap-x-8 gap-y-4 sm:grid-cols-[minmax(0,22rem)_minmax(0,1fr)]">
        <ol className="flex flex-col items-stretch" data-testid="stack">
          {["embed", "pos_embed"].map((name) => {
            const module = global.get(name);
            return (
              module && (
                <Step key={name}>
                  <ModuleBlock module={module} whole={whole} onTell={setTold} />
                </Step>
              )
            );
          })}
          {folded.map((entry) => (
            <Step key={entry.kind === "layer" ? entry.layer.layer : `run-${entry.layers[0]?.layer}`}>
              <FoldedBlock entry={entry} whole={whole} onTell={setTold} />
            </Step>
          ))}
          {global.has("final_norm") && (
            <Step>
              <ModuleBlock
                module={global.get("final_norm") as ModuleDescription}
                whole={whole}
                onTell={setTold}
              />
            </Step>
          )}
          <li>
            {global.has("output") ? (
              <ModuleBlock
                module={global.get("output") as ModuleDescription}
                whole={whole}
                onTell={setTold}
              />
            ) : (
              <Block look={LOOKS.embedding} told={outputTold} onTell={setTold}>
                Output
              </Block>
            )}
          </li>
        </ol>
        {/* What is told here is also each block's name. */}
        <div
          aria-hidden
          className="text-sm max-sm:sticky max-sm:top-20 max-sm:z-10 max-sm:order-first max-sm:min-h-16 max-sm:bg-surface max-sm:py-2"
        >
          <div className="sm:sticky sm:top-24">
            {told ? (
              <>
                <p className="font-medium">{told.title}</p>
                <p className="mt-0.5 text-ink-soft tabular-nums">{told.facts}</p>
              </>
            ) : (
              <p className="text-ink-faint">Point at a block, or move to it with the Tab key.</p>
            )}
          </div>
        </div>
      </div>
    </section>
  );
}

// A block, and the way to the next one.
function Step({ children }: { children: React.ReactNode }) {
  return (
    <li className="flex flex-col">
      {children}
      <ChevronDown aria-hidden className="size-4 self-center text-ink-faint" />
    </li>
  );
}

const LOOKS = {
  embedding: "border-line-strong bg-sunken",
  norm: "border-line bg-surface text-ink-soft",
  attention: "border-accent/40 bg-accent-soft text-accent-strong",
  mlp: "border-good/40 bg-good-soft text-good",
  router: "border-warn/40 bg-warn-soft text-warn",
};

function lookOf(module: string): string {
  if (module.includes("norm")) {
    return LOOKS.norm;
  }
  if (module.startsWith("attn")) {
    return LOOKS.attention;
  }
  if (module === "router") {
    return LOOKS.router;
  }
  return module.includes("embed") || module === "output" ? LOOKS.embedding : LOOKS.mlp;
}

interface BlockProps {
  look: string;
  told: Told;
  onTell: Tell;
  onClick?: () => void;
  children: React.ReactNode;
}

function Block({ look, told, onTell, onClick, children }: BlockProps) {
  const tell = () => onTell(told);
  return (
    <button
      type="button"
      aria-label={`${told.title}: ${told.facts}`}
      onPointerEnter={tell}
      onFocus={tell}
      onClick={onClick ?? tell}
      className={`min-h-8 w-full min-w-0 rounded-md border px-2 py-1 text-center text-sm hover:brightness-95 max-sm:min-h-11 dark:hover:brightness-125 ${look}`}
    >
      {children}
    </button>
  );
}

interface ModuleProps {
  module: ModuleDescription;
  // Bytes of all weights.
  whole: bigint;
  // Of which layer.
  layer?: LayerDescription;
  onTell: Tell;
}

function ModuleBlock({ module, whole, layer, onTell }: ModuleProps) {
  const name = moduleName(module.name);
  const kind =
    layer && module.name === "attn" ? layer.attention : layer && module.name === "mlp" ? layer.mlp : "";
  const share = shareText(module.weightsBytes, whole);
  const facts = [kind, factsOfModule(module), share && `${share} of the weights`];
  const told = {
    title: layer ? `L${layer.layer} ${name}` : name,
    facts: facts.filter(Boolean).join(" • "),
  };
  return (
    <Block
      look={lookOf(module.name)}
      told={told}
      onTell={onTell}
      {...(layer ? { onClick: () => showLayer(layer.layer) } : {})}
    >
      {name}
    </Block>
  );
}

interface FoldedProps {
  entry: Folded;
  whole: bigint;
  onTell: Tell;
}

function FoldedBlock({ entry, whole, onTell }: FoldedProps) {
  if (entry.kind === "layer") {
    return <LayerBlock layer={entry.layer} whole={whole} onTell={onTell} />;
  }
  const text = runText(entry.layers, entry.like);
  const bytes = entry.layers.reduce((sum, layer) => sum + layer.weightsBytes, 0n);
  const share = shareText(bytes, whole);
  const facts = [plural(entry.layers.length, "layer"), share && `${share} of the weights`];
  return (
    <div className="pb-1.5">
      <Block
        look="border-line-strong bg-raised text-ink-soft shadow-[0_3px_0_-1px_var(--color-surface),0_3px_0_0_var(--color-line-strong),0_6px_0_-1px_var(--color-surface),0_6px_0_0_var(--color-line-strong)]"
        told={{ title: text, facts: facts.filter(Boolean).join(" • ") }}
        onTell={onTell}
      >
        {text}
      </Block>
    </div>
  );
}

function LayerBlock({ layer, whole, onTell }: { layer: LayerDescription; whole: bigint; onTell: Tell }) {
  const blocks = (modules: readonly ModuleDescription[]) =>
    modules.map((module) => (
      <ModuleBlock key={module.name} module={module} whole={whole} layer={layer} onTell={onTell} />
    ));
  const attention = layer.modules.filter(({ name }) => name.startsWith("attn"));
  const mlp = layer.modules.filter(({ name }) => !name.startsWith("attn"));
  return (
    <div className="rounded-lg border border-line-strong p-2">
      <p className="mb-1.5 text-xs font-medium text-ink-faint">L{layer.layer}</p>
      {isParallel(layer) ? (
        <>
          <div className="grid grid-cols-2 items-end gap-2">
            <div className="flex min-w-0 flex-col gap-1">{blocks(attention)}</div>
            <div className="flex min-w-0 flex-col gap-1">{blocks(mlp)}</div>
          </div>
          <Sum />
        </>
      ) : (
        <div className="flex flex-col gap-1">
          {blocks(attention)}
          {attention.length > 0 && <Sum />}
          {blocks(mlp)}
          {mlp.length > 0 && <Sum />}
        </div>
      )}
    </div>
  );
}

// Attention and MLP read the same residual stream: there is none between them.
function isParallel(layer: LayerDescription): boolean {
  const points = new Set(layer.hookPoints.map(({ name }) => nameWithoutLayer(name, layer.layer)));
  return points.has("resid_post") && !points.has("resid_mid");
}

// What has been computed is added to the residual stream.
function Sum() {
  return (
    <span
      aria-hidden
      title="Added to the residual stream"
      className="my-0.5 grid size-4 place-items-center self-center rounded-full border border-line-strong text-ink-faint"
    >
      <Plus className="size-3" />
    </span>
  );
}

// Opens the layer's entry in the list and goes there.
function showLayer(layer: number) {
  const details = document.getElementById(`layer-${layer}`)?.querySelector("details");
  if (details) {
    details.open = true;
    details.scrollIntoView?.({ block: "start" });
    details.querySelector("summary")?.focus({ preventScroll: true });
  }
}
