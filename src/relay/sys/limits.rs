//! The limit on open descriptors: each allocation needs one.

use std::io;

/// Raises the soft limit on open descriptors to the hard one and returns both as they are then.
///
/// The soft limit is historically low because of `select`, which nothing here uses.
///
/// # Errors
/// When the kernel does not tell or does not change the limit; the old one stays in force.
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let limit = descriptor_limit()?;
    if limit.rlim_cur != limit.rlim_max {
        set_descriptor_limit(libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max })?;
    }
    let limit = descriptor_limit()?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

fn descriptor_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live, writable rlimit, which the call fills in.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { Ok(limit) } else { Err(io::Error::last_os_error()) }
}

fn set_descriptor_limit(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: the pointer is to a live rlimit, which the call only reads.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let (soft, hard) = raise_descriptor_limit().expect("the limit can be raised");
        assert_eq!(soft, hard);
        assert_eq!(descriptor_limit().expect("the limit can be read").rlim_cur, hard);
    }
}
