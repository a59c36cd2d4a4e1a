//! The body of a file's answer: a range of a blob, read while it is sent, with the effects of faults.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::stream;

use crate::fault::{Applied, FaultKind};
use crate::gate::Gate;
use crate::journal::Ticket;
use crate::repo::blob::Reader;
use crate::throttle::Throttle;

/// The number of waits a second that keep a rate.
const TICKS: u64 = 20;
/// A wait before a cut, so that the bytes before it reach the socket: the server flushes while the body is pending.
const FLUSH: Duration = Duration::from_millis(10);

/// The effects of faults on one body.
#[derive(Debug, Default)]
pub(crate) struct BodyPlan {
    cut_after: Option<u64>,
    corrupt_at: Option<u64>,
    stall: Option<(u64, Arc<Gate>, Option<Duration>)>,
    bytes_per_second: Option<u64>,
    line: Option<(u64, Arc<Throttle>)>,
    pauses: Vec<(u64, Arc<Gate>)>,
    pub short_by: u64,
    pub endless: bool,
}

impl BodyPlan {
    /// Returns the effects on a body of the file's bytes `start..end`.
    pub fn new(faults: Vec<Applied>, start: u64, end: u64) -> Self {
        let mut plan = Self::default();
        let middle = start + (end - start) / 2;
        for Applied { kind, gate, throttle, draw } in faults {
            match kind {
                FaultKind::Cut { after } => plan.cut_after = Some(after),
                FaultKind::RandomCut { probability, .. } if draw < probability => {
                    // Given that it is below `probability`, the number is uniform, so it decides the place too.
                    let part = draw / probability;
                    plan.cut_after = Some(((end - start) as f64 * part) as u64);
                }
                FaultKind::Corrupt { at } => plan.corrupt_at = Some(at.unwrap_or(middle)),
                FaultKind::Short { by } => plan.short_by = by.min(end - start),
                FaultKind::Endless => plan.endless = true,
                FaultKind::Stall { after: Some(after), for_ms } => {
                    plan.stall = Some((after, gate, for_ms.map(Duration::from_millis)));
                }
                FaultKind::Rate { bytes_per_second } => {
                    plan.bytes_per_second = Some(bytes_per_second.max(1));
                }
                FaultKind::TotalRate { bytes_per_second } => plan.line = Some((bytes_per_second, throttle)),
                FaultKind::Pause { at } => plan.pauses.push((at, gate)),
                _ => {}
            }
        }
        plan
    }
}

/// A body that is being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    pub reader: Reader,
    /// The offset of the next byte in the file.
    pub position: u64,
    /// The offset after the last byte in the file.
    pub end: u64,
    /// The size of the whole file in bytes.
    pub size: u64,
    pub plan: BodyPlan,
    /// The number of bytes that are read and sent at once.
    pub piece: u64,
    pub ticket: Ticket,
}

struct Progress {
    sending: Sending,
    sent: u64,
    over: bool,
}

impl Sending {
    /// Returns the HTTP body, which reads the file as it is polled.
    pub fn into_body(mut self) -> Body {
        self.end -= self.plan.short_by;
        let progress = Progress { sending: self, sent: 0, over: false };
        Body::from_stream(stream::unfold(progress, |mut progress| async move {
            progress.next().await.map(|item| (item, progress))
        }))
    }
}

impl Progress {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.over {
            return None;
        }
        for (at, gate) in &self.sending.plan.pauses {
            if *at == self.sending.position {
                gate.hold(None).await;
            }
        }
        if let Some((after, gate, limit)) = &self.sending.plan.stall
            && *after == self.sent
        {
            gate.hold(*limit).await;
        }
        if self.sending.plan.cut_after == Some(self.sent) {
            self.over = true;
            tokio::time::sleep(FLUSH).await;
            return Some(Err(io::Error::other("cut by a fault")));
        }
        if self.sending.position == self.sending.end {
            if !self.sending.plan.endless || self.sending.size == 0 {
                self.over = true;
                self.sending.ticket.complete();
                return None;
            }
            self.sending.position = 0;
            self.sending.end = self.sending.size;
        }
        let len = self.next_len();
        if let Some(rate) = self.sending.plan.bytes_per_second {
            tokio::time::sleep(Duration::from_secs_f64(len as f64 / rate as f64)).await;
        }
        if let Some((rate, line)) = &self.sending.plan.line {
            line.pass(len, *rate).await;
        }
        let piece = self.sending.reader.read(self.sending.position, len as usize);
        Some(piece.map(|piece| self.account(piece)))
    }

    /// Returns the length of the next piece, which ends at the next effect of a fault.
    fn next_len(&self) -> u64 {
        let Sending { position, end, plan, piece, .. } = &self.sending;
        let mut len = (*piece).min(end - position);
        if let Some(rate) = plan.bytes_per_second {
            len = len.min((rate / TICKS).max(1));
        }
        for (at, _) in &plan.pauses {
            if at > position {
                len = len.min(at - position);
            }
        }
        let stall = plan.stall.as_ref().map(|(after, ..)| *after);
        for after in [plan.cut_after, stall].into_iter().flatten() {
            if after > self.sent {
                len = len.min(after - self.sent);
            }
        }
        len
    }

    fn account(&mut self, piece: Bytes) -> Bytes {
        let Sending { position, end, plan, ticket, .. } = &mut self.sending;
        let len = piece.len() as u64;
        let range = *position..*position + len;
        let piece = match plan.corrupt_at {
            Some(at) if range.contains(&at) => {
                let mut damaged = BytesMut::from(&piece[..]);
                damaged[(at - *position) as usize] ^= 0xff;
                damaged.freeze()
            }
            _ => piece,
        };
        *position += len;
        self.sent += len;
        ticket.sent(len);
        // With a known length the server does not ask for what follows the last byte.
        if position == end && !plan.endless && plan.short_by == 0 {
            ticket.complete();
        }
        piece
    }
}
