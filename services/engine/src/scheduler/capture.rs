//! Captures beside serving: their sequences run as prefill rows, in passes of their own, when requests leave room. One
//! capture runs at a time; the others wait in order of arrival.
//!
//! A capture's sequences hold KV blocks of their own, which the prefix cache never sees. Its pass runs some layers at a
//! time between decode passes, or all layers its sink has room for when no request runs. It begins only while no prompt
//! is being prefilled. A prompt that comes meanwhile waits until the pass has run its last layer, as it waits for the
//! chunk of another prompt: a model keeps the residual of one suspended pass, not of two.
//!
//! When requests lack blocks, the capture is preempted: it releases its blocks, and later computes again what it needs.
//! Its sink receives no state twice: a state does not depend on the pass that computed it.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use millm_model::{Hook, HookPoint};

use crate::capture::{
    CaptureError, CaptureOutput, CaptureRequest, CaptureRows, CaptureSink, MAX_DELIVERY_BYTES,
};
use crate::error::{Result, from_panic, panic_message};
use crate::forward::Forward;
use crate::forward::batch::{Batch, Logits, Segment};
use crate::forward::hooks::{Hooks, NoHooks};
use crate::kv_cache::{BLOCK_SIZE, BlockPool, BlockTable, SequenceId};
use crate::scheduler::capture_plan::{
    DeliveryWidths, PassRoom, Place, RowWidth, blocks_of_pass, plan_capture_pass,
};
use crate::scheduler::layerwise_prefill::{LayerTiming, TimeShare};
use crate::scheduler::limits::Limits;
use crate::scheduler::pass_output::caught;
use crate::stats::Counters;

/// All captures of an engine.
#[derive(Default)]
pub(crate) struct Captures {
    /// In order of arrival. The first one runs.
    queue: VecDeque<Capture>,
    timing: LayerTiming,
    share: TimeShare,
}

/// What captures share with requests.
pub(crate) struct CaptureContext<'a> {
    pub model: &'a mut dyn Forward,
    pub blocks: &'a mut BlockPool,
    pub counters: &'a Counters,
    pub limits: &'a Limits,
    /// KV blocks that requests leave.
    pub free_blocks: usize,
}

/// How much of a step a capture takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// All layers of a full pass: no request runs.
    Alone,
    /// A share of the decode passes' time.
    BesideDecode,
    /// As many layers of the pass that has begun as a prefill pass runs between two decode passes: a prompt waits for
    /// its end.
    BeforePrefill,
}

/// What a step did for captures.
pub(crate) enum Progress {
    None,
    Ran,
    Ended(Ended),
}

/// A capture that has left the queue. Its blocks are released.
pub(crate) struct Ended {
    output: CaptureOutput,
    result: Result<(), CaptureError>,
}

impl Ended {
    /// Tells the sink. The counters must be up to date by then.
    pub fn send(self) {
        if let Err(CaptureError::Failed(why)) = &self.result {
            tracing::error!(why, "a capture failed in the engine");
        }
        self.output.end(self.result);
    }
}

impl Captures {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds a capture to the queue. It must have been checked.
    pub fn enqueue(&mut self, request: CaptureRequest, output: CaptureOutput, model: &dyn Forward) {
        self.queue.push_back(Capture::new(request, output, model));
    }

    /// Returns whether a pass has run its first layers, and not its last.
    pub fn is_suspended(&self) -> bool {
        let pass = self.queue.front().and_then(|capture| capture.pass.as_ref());
        pass.is_some_and(|pass| pass.next_layer > 0)
    }

    /// Drops the pass that has begun. Its layers run again later.
    pub fn drop_pass(&mut self, blocks: &mut BlockPool) {
        if let Some(capture) = self.queue.front_mut() {
            capture.drop_pass(blocks);
        }
    }

    /// Releases all blocks. Returns whether there were any.
    pub fn preempt(&mut self, blocks: &mut BlockPool) -> bool {
        let Some(capture) = self.queue.front_mut() else { return false };
        let held = !capture.open.is_empty();
        capture.release(blocks);
        held
    }

    /// Notes the duration of a decode pass.
    pub fn decoded(&mut self, time: Duration) {
        self.timing.decoded(time);
        self.share.decoded(time);
    }

    /// Removes the captures whose receivers are gone.
    pub fn remove_closed(&mut self, blocks: &mut BlockPool) -> Vec<Ended> {
        let mut ended = Vec::new();
        for index in (0..self.queue.len()).rev() {
            let closed = caught(|| self.queue[index].output.closed());
            let error = match closed {
                Ok(false) => continue,
                Ok(true) => CaptureError::Cancelled,
                Err(panic) => CaptureError::Failed(panic_message(&*panic)),
            };
            ended.extend(self.remove(index, Err(error), blocks));
        }
        ended
    }

    /// Removes all captures.
    pub fn cancel_all(&mut self, blocks: &mut BlockPool) -> Vec<Ended> {
        let mut ended = Vec::new();
        while let Some(capture) = self.remove(0, Err(CaptureError::Cancelled), blocks) {
            ended.push(capture);
        }
        ended
    }

    fn remove(
        &mut self,
        index: usize,
        result: Result<(), CaptureError>,
        blocks: &mut BlockPool,
    ) -> Option<Ended> {
        let mut capture = self.queue.remove(index)?;
        capture.release(blocks);
        Some(Ended { output: capture.output, result })
    }

    /// Runs layers of the first capture.
    pub fn run(&mut self, effort: Effort, context: &mut CaptureContext<'_>) -> Progress {
        let Self { queue, timing, share } = self;
        if effort == Effort::Alone {
            *share = TimeShare::default();
        } else if effort == Effort::BesideDecode && share.left().is_zero() {
            return Progress::None;
        }
        let Some(capture) = queue.front_mut() else { return Progress::None };
        let begin = Instant::now();
        // The sink's own code runs within.
        let outcome = caught(|| {
            let rows = capture.begin_pass(effort, context);
            let count = layers_to_run(effort, rows, context.limits, timing, share);
            capture.run_layers(count, context)
        });
        let time = begin.elapsed();
        if effort != Effort::Alone {
            share.spent(time);
        }
        match outcome.unwrap_or_else(|panic| Err(from_panic(panic))) {
            Ok(Ran::Nothing) => Progress::None,
            Ok(Ran::Layers { rows, layers }) => {
                timing.prefilled(rows, layers, time);
                capture.note_time(effort, time);
                Progress::Ran
            }
            Ok(Ran::LastLayers) => {
                capture.note_time(effort, time);
                if capture.complete_pass(context) { self.end(Ok(()), context) } else { Progress::Ran }
            }
            Err(error) => self.end(Err(error.into()), context),
        }
    }

    fn end(&mut self, result: Result<(), CaptureError>, context: &mut CaptureContext<'_>) -> Progress {
        self.remove(0, result, context.blocks).map_or(Progress::None, Progress::Ended)
    }
}

/// Returns how many layers of `rows` rows may run now.
fn layers_to_run(
    effort: Effort,
    rows: usize,
    limits: &Limits,
    timing: &LayerTiming,
    share: &TimeShare,
) -> usize {
    let limit = limits.prefill_layers_per_decode;
    match effort {
        Effort::Alone => usize::MAX,
        Effort::BesideDecode => timing.layers_in(share.left(), rows).min(limit.unwrap_or(usize::MAX)),
        Effort::BeforePrefill => limit.unwrap_or_else(|| timing.layers_per_decode(rows)),
    }
}

/// What a step ran of a capture.
enum Ran {
    /// Nothing: blocks or room in the sink are lacking.
    Nothing,
    Layers {
        rows: usize,
        layers: usize,
    },
    /// The pass is complete.
    LastLayers,
}

/// One capture, from arrival to end.
struct Capture {
    output: CaptureOutput,
    sequences: Vec<Vec<u32>>,
    hooks: HashSet<Hook>,
    widths: DeliveryWidths,
    /// The first token whose states the sink does not have.
    next: Place,
    /// Sequences with KV blocks.
    open: Vec<(usize, SequenceId)>,
    pass: Option<CapturePass>,
    /// The pass that was dropped after the sink had received the states of its first layers.
    dropped: Option<DroppedPass>,
}

/// A pass that has begun.
struct CapturePass {
    rows: Vec<CaptureRows>,
    batch: Batch,
    next_layer: usize,
    /// Layers whose states the sink has received from a pass that was dropped.
    delivered: usize,
    /// The sink has received the states of these tokens. Only their keys and values are computed again.
    recomputes: bool,
    /// The time of its layers so far; `None` if requests have run meanwhile.
    time_alone: Option<Duration>,
}

struct DroppedPass {
    rows: Vec<CaptureRows>,
    delivered: usize,
}

impl Capture {
    fn new(request: CaptureRequest, output: CaptureOutput, model: &dyn Forward) -> Self {
        let hooks: HashSet<Hook> = request.hooks.into_iter().collect();
        let widths = DeliveryWidths::new(model.spec(), &hooks);
        Self {
            output,
            sequences: request.sequences,
            hooks,
            widths,
            next: Place::default(),
            open: Vec::new(),
            pass: None,
            dropped: None,
        }
    }

    /// Begins the next pass if none has begun and its blocks are free. Returns the rows of the pass.
    fn begin_pass(&mut self, effort: Effort, context: &mut CaptureContext<'_>) -> usize {
        if self.pass.is_none() && effort != Effort::BeforePrefill {
            let budget = context.limits.prefill;
            let rows = match effort {
                Effort::Alone => budget.alone,
                _ => budget.alone.min(budget.while_decoding),
            };
            self.pass = self.next_pass(rows, context);
        }
        self.pass.as_ref().map_or(0, |pass| pass.batch.tokens().len())
    }

    /// Plans the next pass, and reserves its blocks.
    fn next_pass(&mut self, rows: usize, context: &mut CaptureContext<'_>) -> Option<CapturePass> {
        let next = self.id_of(self.next.sequence).and_then(|id| context.blocks.table(id));
        let computed = next.map_or(0, BlockTable::length);
        let held = next.map_or(0, |table| table.capacity() / BLOCK_SIZE - computed.div_ceil(BLOCK_SIZE));
        let room = PassRoom::new(rows, context.free_blocks + held);
        let recomputes = computed < self.next.position;
        let mut delivered = 0;
        let rows = if recomputes {
            self.recomputed_rows(computed, room)
        } else if let Some(dropped) = &self.dropped {
            delivered = dropped.delivered;
            let fits = blocks_of_pass(&dropped.rows) <= room.blocks;
            if fits { dropped.rows.clone() } else { Vec::new() }
        } else {
            let whole = context.limits.runs_whole_passes(context.model.spec().layers);
            let width = if whole { self.widths.all_layers() } else { self.widths.widest_layer() };
            plan_capture_pass(&self.sequences, self.next, room, width)
        };
        let wants_logits = !recomputes && self.hooks.contains(&Hook::global(HookPoint::Logits));
        let logits = if wants_logits { Logits::All } else { Logits::None };
        let mut batch = Batch::default();
        for part in &rows {
            let id = self.open_sequence(part.sequence, context);
            if !context.blocks.reserve(id, part.end()) {
                // Too few after all. It begins again when requests leave more.
                self.release(context.blocks);
                return None;
            }
            let tokens = &self.sequences[part.sequence];
            let chunk = &tokens[part.position..part.end()];
            batch.push_prefill_chunk(context.blocks, id, chunk, tokens.len(), logits);
        }
        let time_alone = Some(Duration::ZERO);
        (!rows.is_empty()).then_some(CapturePass {
            rows,
            batch,
            next_layer: 0,
            delivered,
            recomputes,
            time_alone,
        })
    }

    /// Plans the rows of delivered tokens whose keys and values are needed again.
    fn recomputed_rows(&self, computed: usize, room: PassRoom) -> Vec<CaptureRows> {
        let rows = room.rows_from(computed, RowWidth::default()).min(self.next.position - computed);
        let part = CaptureRows { sequence: self.next.sequence, position: computed, rows: 0..rows };
        if rows == 0 { Vec::new() } else { vec![part] }
    }

    fn id_of(&self, sequence: usize) -> Option<SequenceId> {
        self.open.iter().find(|(open, _)| *open == sequence).map(|(_, id)| *id)
    }

    fn open_sequence(&mut self, sequence: usize, context: &mut CaptureContext<'_>) -> SequenceId {
        self.id_of(sequence).unwrap_or_else(|| {
            let regime = context.model.spec().rope_regime(self.sequences[sequence].len());
            let id = context.blocks.open(regime);
            self.open.push((sequence, id));
            id
        })
    }

    /// Runs the next layers of the pass, at most `count`, as far as the sink has room for their states.
    fn run_layers(&mut self, count: usize, context: &mut CaptureContext<'_>) -> Result<Ran> {
        let Self { output, hooks, widths, pass: Some(pass), .. } = self else { return Ok(Ran::Nothing) };
        let total = context.model.spec().layers;
        let start = pass.next_layer;
        let whole = context.limits.runs_whole_passes(total);
        let most = if whole { total } else { total.min(start.saturating_add(count)) };
        let end = if pass.recomputes {
            most
        } else if whole {
            let bytes: usize = (pass.delivered..total).map(|layer| widths.bytes(layer, &pass.rows)).sum();
            if output.has_room(bytes) { total } else { start }
        } else {
            let mut bytes = 0;
            let has_room = |layer: &usize| {
                let most = if bytes == 0 { usize::MAX } else { MAX_DELIVERY_BYTES };
                bytes += if *layer < pass.delivered { 0 } else { widths.bytes(*layer, &pass.rows) };
                bytes == 0 || (bytes <= most && output.has_room(bytes))
            };
            start + (start..most).take_while(has_room).count()
        };
        if end == start {
            return Ok(Ran::Nothing);
        }
        let (rows, delivered) = (&pass.rows[..], pass.delivered);
        let mut delivery = Delivery { hooks, rows, delivered, sink: &mut **output };
        let mut none = NoHooks;
        let hooks: &mut dyn Hooks = if pass.recomputes { &mut none } else { &mut delivery };
        let is_complete =
            context.model.forward_layers(&pass.batch, start..end, context.blocks, hooks)?.is_some();
        pass.next_layer = end;
        let rows = pass.batch.tokens().len();
        Ok(if is_complete { Ran::LastLayers } else { Ran::Layers { rows, layers: end - start } })
    }

    /// Adds to the time that the pass has taken.
    fn note_time(&mut self, effort: Effort, time: Duration) {
        if let Some(pass) = &mut self.pass {
            let before = pass.time_alone.filter(|_| effort == Effort::Alone);
            pass.time_alone = before.map(|before| before + time);
        }
    }

    /// Applies the end of a pass. Returns whether it was the last one.
    fn complete_pass(&mut self, context: &mut CaptureContext<'_>) -> bool {
        let Some(pass) = self.pass.take() else { return false };
        context.counters.forward_pass();
        let Some(last) = pass.rows.last().filter(|_| !pass.recomputes) else { return false };
        let rows = pass.batch.tokens().len();
        context.counters.captured(rows);
        let full = context.limits.prefill.alone;
        if let Some(time) = pass.time_alone.filter(|_| rows >= full.div_ceil(2)) {
            context.counters.full_rate_prefill(rows, time);
        }
        self.dropped = None;
        let is_whole = last.end() == self.sequences[last.sequence].len();
        self.next = if is_whole {
            Place { sequence: last.sequence + 1, position: 0 }
        } else {
            Place { sequence: last.sequence, position: last.end() }
        };
        self.release_others(context.blocks);
        self.next.sequence == self.sequences.len()
    }

    /// Drops the pass that has begun.
    fn drop_pass(&mut self, blocks: &mut BlockPool) {
        if let Some(pass) = self.pass.take()
            && !pass.recomputes
        {
            let delivered = pass.delivered.max(pass.next_layer);
            self.dropped = (delivered > 0).then_some(DroppedPass { rows: pass.rows, delivered });
        }
        self.release_others(blocks);
    }

    /// Releases the blocks of all sequences but that of the next token, which may have begun.
    fn release_others(&mut self, blocks: &mut BlockPool) {
        let Place { sequence, position } = self.next;
        let (kept, released): (Vec<_>, Vec<_>) =
            self.open.drain(..).partition(|(open, _)| *open == sequence && position > 0);
        self.open = kept;
        for (_, id) in released {
            blocks.release(id);
        }
    }

    /// Drops the pass and releases all blocks.
    fn release(&mut self, blocks: &mut BlockPool) {
        self.drop_pass(blocks);
        for (_, id) in self.open.drain(..) {
            blocks.release(id);
        }
    }
}

/// Hands the states of a pass on to a sink.
struct Delivery<'a> {
    hooks: &'a HashSet<Hook>,
    rows: &'a [CaptureRows],
    /// Layers whose states the sink has received already.
    delivered: usize,
    sink: &'a mut dyn CaptureSink,
}

impl Hooks for Delivery<'_> {
    fn wants(&self, hook: Hook) -> bool {
        let delivered = match hook.layer {
            Some(layer) => layer < self.delivered,
            // It comes with the first layer.
            None => hook.point == HookPoint::Embed && self.delivered > 0,
        };
        !delivered && self.hooks.contains(&hook)
    }

    fn receive(&mut self, hook: Hook, states: &[f32], _: &Batch) {
        let rows = self.rows.last().map_or(0, |part| part.rows.end);
        self.sink.receive(hook, self.rows, states.len() / rows.max(1), states);
    }

    fn receive_attention(&mut self, hook: Hook, segment: &Segment, keys: usize, values: &[f32]) {
        let Some(part) = self.rows.iter().find(|part| part.rows == segment.rows) else { return };
        let rows = CaptureRows { rows: 0..part.rows.len(), ..part.clone() };
        let heads = values.len() / (rows.rows.len() * keys).max(1);
        self.sink.receive_attention(hook, &rows, heads, keys, values);
    }
}
