//! What flows cost that nobody uses: resident memory, processor time, descriptors.

use std::{fs, thread, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    Outcome,
    ours::{Managers, runtime},
    quic::Endpoints,
};

fn status(line: &str) -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|text| text.strip_prefix(line));
    Ok(value.ok_or("no such line")?.trim().trim_end_matches(" kB").parse()?)
}

/// In bytes.
fn resident() -> Outcome<f64> {
    Ok(status("VmRSS:")? * 1024.0)
}

/// User and system, in milliseconds.
fn processor() -> Outcome<f64> {
    let mut total = 0.0;
    for task in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds: f64 = text.split_whitespace().next().ok_or("no time")?.parse()?;
        total += nanoseconds / 1e6;
    }
    Ok(total)
}

fn many_descriptors() -> Outcome<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}

/// Has `pairs` idle pairs while `work` runs.
fn with_idle<T>(quinn: bool, pairs: usize, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    many_descriptors()?;
    let runtime = runtime()?;
    if quinn {
        let (_endpoints, _kept) = runtime.block_on(async {
            let endpoints = Endpoints::new()?;
            let mut kept = Vec::with_capacity(pairs);
            for _ in 0..pairs {
                kept.push(endpoints.pair().await?);
            }
            Outcome::Ok((endpoints, kept))
        })?;
        return work();
    }
    let (_managers, _kept) = runtime.block_on(async {
        let managers = Managers::new().await?;
        let mut kept = Vec::with_capacity(pairs);
        for _ in 0..pairs {
            kept.push(managers.pair(true).await?);
        }
        Outcome::Ok((managers, kept))
    })?;
    work()
}

/// Bytes that are resident more for each of two ends.
pub(crate) fn memory(quinn: bool, pairs: usize) -> Outcome<f64> {
    // What the first pair needs is not a pair's.
    let before = with_idle(quinn, 1, resident)?;
    let after = with_idle(quinn, pairs, || {
        thread::sleep(Duration::from_secs(1));
        resident()
    })?;
    Ok((after - before) / (2 * pairs) as f64)
}

pub(crate) fn cpu(quinn: bool, pairs: usize) -> Outcome<f64> {
    with_idle(quinn, pairs, || {
        // Old keys are erased some seconds after new ones are in use.
        thread::sleep(Duration::from_secs(8));
        let before = processor()?;
        thread::sleep(Duration::from_secs(5));
        Ok(processor()? - before)
    })
}

/// Kilobytes that are resident more after 1,500 flows have come and gone four
/// times than after the first time.
pub(crate) fn churn() -> Outcome<f64> {
    let mut after = Vec::new();
    for _ in 0..4 {
        with_idle(false, 750, || Ok(()))?;
        thread::sleep(Duration::from_millis(500));
        after.push(resident()?);
    }
    Ok((after[3] - after[0]) / 1024.0)
}

pub(crate) fn descriptors() -> Outcome<f64> {
    let open = || Ok(fs::read_dir("/proc/self/fd")?.count() as f64);
    let before = with_idle(false, 1, open)?;
    let after = with_idle(false, 101, open)?;
    Ok((after - before) / 200.0)
}
