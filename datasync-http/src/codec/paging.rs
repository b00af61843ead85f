//! The pages of a pull from a service that has `updatedAt` and nothing more: a keyset, and never `$skip`.
//!
//! T is the stamp of the last row received, in milliseconds, and never goes back within a pull.
//!
//! | step | asks | goes on |
//! | --- | --- | --- |
//! | nulls | `updatedAt eq null` and `id gt I`, by id | complete: ordinary; else: behind its last id |
//! | ordinary | `updatedAt ge T−1ms`, by (updatedAt, id) | complete: the end; a row later than T: ordinary; else: window |
//! | window | `[T−1ms, T+1ms)` and `id gt I`, by id | complete: ordinary from exactly T+1ms; else: window behind its last id |
//!
//! A page is complete if it has no next link and fewer rows than were asked for. The last page is an ordinary one, so
//! that what changed while paging is in it.
//!
//! | what may go wrong | why nothing is skipped |
//! | --- | --- |
//! | the service shows milliseconds and stores more | a stamp shown as T was stored in `[T−1ms, T+1ms)`, cut or rounded |
//! | rows with equal stamps | T−1ms asks for all of them again; a full page of them is walked by id |
//! | a row changes, is deleted or comes while paging | it gets a later stamp, and ordinary pages go on to the latest |
//! | a row is written with the stamp T behind the walk | while the service's clock is within 2 s of T, the next pull begins at T again |
//! | rows without a stamp | they match no `ge`: they are walked by id at the first pull, and later if there were any |
//! | a row appears after its stamp | the next pull begins at the service's time less the overlap as of the first page that read beyond that, whether this pull comes to its end or is cut |
//! | the pull is cut | the token of a page is the state behind it |

use std::time::Duration;

use datasync_core::{
    query::{BinaryOp, Expr, Literal, OrderBy, QueryDescription},
    schema::{ID, UPDATED_AT},
    transport::{TransportError, TransportErrorKind},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::codec::response::RawPage;

/// How long rows may still be written with the stamp of a row that was read, in milliseconds.
const SETTLED_AFTER: i64 = 2_000;
/// 0001-01-01, the earliest time that the originals know.
const EARLIEST: i64 = -62_135_596_800_000;

/// What the next page of a pull holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// From this stamp on.
    From(i64),
    /// The window around a stamp, behind an id.
    Window { around: i64, behind: String },
    /// Rows without a stamp, behind an id.
    Nulls { behind: String },
}

/// How far a pull is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keyset {
    /// The latest stamp received.
    mark: Option<i64>,
    /// Where the next pull must begin although it is before the mark.
    floor: Option<i64>,
    /// Whether rows without a stamp are to be asked for: at the first pull, and later if there were any.
    nulls: bool,
    /// Where a pull under way goes on.
    step: Option<Step>,
}

impl Keyset {
    /// The start of a first pull.
    pub(crate) fn start() -> Keyset {
        Keyset { mark: None, floor: None, nulls: true, step: None }
    }

    /// Behind what was received up to this stamp by other means.
    pub(crate) fn from(mark: Option<i64>) -> Keyset {
        Keyset { mark, nulls: mark.is_none(), ..Keyset::start() }
    }

    fn step(&self) -> Step {
        match &self.step {
            Some(step) => step.clone(),
            None if self.nulls => Step::Nulls { behind: String::new() },
            None => self.begin(),
        }
    }

    /// The first ordinary page of a pull.
    fn begin(&self) -> Step {
        Step::From(self.floor.or(self.mark).map_or(EARLIEST, |stamp| stamp - 1))
    }

    /// The query of the next page.
    pub(crate) fn query(&self, query: &QueryDescription, top: u32, first: bool) -> QueryDescription {
        let by_id = vec![OrderBy { field: ID.to_owned(), descending: false }];
        let (condition, order) = match self.step() {
            Step::From(stamp) => {
                let by_stamp = OrderBy { field: UPDATED_AT.to_owned(), descending: false };
                (stamped(BinaryOp::Ge, stamp), [vec![by_stamp], by_id].concat())
            }
            Step::Window { around, behind } => {
                let window = and(stamped(BinaryOp::Ge, around - 1), stamped(BinaryOp::Lt, around + 1));
                (behind_id(window, &behind), by_id)
            }
            Step::Nulls { behind } => {
                let null = compare(UPDATED_AT, BinaryOp::Eq, Literal::Null);
                (behind_id(null, &behind), by_id)
            }
        };
        let filter = match &query.filter {
            Some(filter) => and(filter.clone(), condition),
            None => condition,
        };
        let (filter, top) = (Some(filter), Some(u64::from(top)));
        let count = matches!(self.step(), Step::From(_)) && (first || self.mark.is_none());
        let parameters = query.parameters.clone();
        QueryDescription { filter, order, top, count, parameters, ..QueryDescription::default() }
    }

    /// Makes the next pull begin where rows may still appear: before the mark, if that is fresh. A page without a date says
    /// nothing of that; if it is the last one the mark counts as now.
    fn settle(&mut self, date: Option<Timestamp>, last: bool, overlap: Duration) {
        let Some(mark) = self.mark else { return };
        let Some(now) = date.map(millis).or(last.then_some(mark)) else { return };
        let overlap = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
        let settled = now.saturating_sub(overlap).max(EARLIEST + 1);
        if settled < mark {
            self.floor = Some(self.floor.map_or(settled, |floor| floor.min(settled)));
        }
    }

    /// The position behind a page, and whether the pull goes on. `overlap` is how long after its stamp a row may
    /// appear.
    pub(crate) fn behind(&self, page: &RawPage, top: u32, overlap: Duration) -> Result<(Keyset, bool), TransportError> {
        let mut next = self.clone();
        let complete = page.next_link.is_none() && page.rows.len() < top as usize;
        let last_id = page.rows.last().map(|row| row.id.as_ref().to_owned());
        let stuck = || {
            let message = "the service answers the same page again and again";
            TransportError::new(TransportErrorKind::Protocol, message)
        };
        let latest = page.rows.iter().filter_map(|row| row.record.updated_at).map(millis).max();
        next.mark = self.mark.max(latest);
        if self.step.is_none() && !self.nulls {
            // This page began at the floor; it and those behind it set the next one.
            next.floor = None;
        }
        let last = complete && matches!(self.step(), Step::From(_));
        next.settle(page.date, last, overlap);
        next.step = match self.step() {
            Step::From(_) if complete => None,
            Step::From(from) => match latest {
                None => return Err(stuck()),
                // The page began at T−1ms, or at T+1ms behind a window: whatever is later than T is progress.
                Some(latest) if latest > from + 1 => Some(Step::From(latest - 1)),
                Some(latest) => Some(Step::Window { around: latest, behind: String::new() }),
            },
            Step::Window { around, behind } => {
                let fresh = page.date.is_none_or(|now| millis(now) < around + SETTLED_AFTER);
                if behind.is_empty() && fresh {
                    next.floor = Some(next.floor.map_or(around, |floor| floor.min(around)));
                }
                match last_id {
                    _ if complete => Some(Step::From(around + 1)),
                    Some(id) if id != behind => Some(Step::Window { around, behind: id }),
                    _ => return Err(stuck()),
                }
            }
            Step::Nulls { behind } => {
                next.nulls = !behind.is_empty() || !page.rows.is_empty();
                match last_id {
                    _ if complete => {
                        next.floor = None;
                        Some(self.begin())
                    }
                    Some(id) if id != behind => Some(Step::Nulls { behind: id }),
                    _ => return Err(stuck()),
                }
            }
        };
        let more = next.step.is_some();
        Ok((next, more))
    }
}

pub(crate) fn millis(time: Timestamp) -> i64 {
    time.as_nanosecond().div_euclid(1_000_000) as i64
}

fn compare(field: &str, op: BinaryOp, value: Literal) -> Expr {
    Expr::binary(op, Expr::Field(field.to_owned()), Expr::Literal(value))
}

fn and(one: Expr, other: Expr) -> Expr {
    Expr::binary(BinaryOp::And, one, other)
}

fn stamped(op: BinaryOp, stamp: i64) -> Expr {
    // Stamps come from timestamps, or are a millisecond beside one.
    let time = Timestamp::from_millisecond(stamp).unwrap_or(Timestamp::MIN);
    compare(UPDATED_AT, op, Literal::Timestamp(time))
}

fn behind_id(condition: Expr, id: &str) -> Expr {
    match id {
        "" => condition,
        id => and(condition, compare(ID, BinaryOp::Gt, Literal::Text(id.to_owned()))),
    }
}
