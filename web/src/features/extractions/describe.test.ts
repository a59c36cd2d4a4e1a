import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { sampleExtraction } from "../../api/inspection-samples";
import { ActivationType } from "../../gen/millm/catalog/v1/templates_pb";
import { Extraction_State } from "../../gen/millm/inspection/v1/inspection_pb";
import { doneText, fractionOf, historyText, paceText, settingsText } from "./describe";
import { newerThan } from "./listing";

const planning = sampleExtraction({ samplesDone: 0n, samplesTotal: 0n, tokensDone: 0n });
const finished = sampleExtraction({
  state: Extraction_State.SUCCEEDED,
  samplesDone: 1000n,
  tokensDone: 512_000n,
  endTime: timestampFromMs(1_747_060_301_000),
});

test("how far it is", () => {
  const running = sampleExtraction();
  expect(fractionOf(running)).toBe(0.12);
  expect(doneText(running)).toBe("120 of 1,000 samples • 61,440 tokens");
  expect(paceText(running)).toBe("41 samples/s • 21 s left");
  expect(fractionOf(planning)).toBeUndefined();
  expect(doneText(planning)).toBe("Planning…");
  expect(doneText({ ...planning, state: Extraction_State.QUEUED })).toBe("Waits for its turn");
  expect(doneText({ ...planning, state: Extraction_State.FAILED })).toBe("");
  expect(doneText(finished)).toBe("1,000 samples • 512,000 tokens");
  expect(paceText(finished)).toBe("");
});

test("what was chosen, and how long it took", () => {
  expect(settingsText(sampleExtraction())).toBe("residual, mlp • layers 0,5-10");
  const settings = { points: [..."abcdefgh"], layers: "all", dtype: ActivationType.F16 };
  expect(settingsText(sampleExtraction({ config: { settings } }))).toBe(
    "a, b, c, d, e, f and 2 more • all layers • f16",
  );
  expect(historyText(finished)).toContain("took 1 min 40 s • 1.2 MB");
});

test("what the feed has told of beyond the list", () => {
  const at = (id: string, ms: number) => sampleExtraction({ id, createTime: timestampFromMs(ms) });
  const told = new Map([at("old", 1), at("listed", 5), at("new", 9)].map((each) => [each.id, each]));
  const ids = (listed: Parameters<typeof newerThan>[0]) => newerThan(listed, told).map(({ id }) => id);
  expect(ids([at("listed", 5)])).toEqual(["new"]);
  expect(ids([])).toEqual(["old", "listed", "new"]);
});
