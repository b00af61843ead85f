//! The keys of the tables: their order is the order of what they name, and none is the beginning of another.

use datasync_core::{
    row::RowKey,
    store::{ScopeKey, StoreError},
};

use crate::error::corrupted;

/// Appends bytes such that the order stays and the end can be found: a zero is followed by 255, the end is 0, 1.
fn part(key: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend([0, 1]);
}

/// Takes a part off the front.
fn take_part(key: &[u8]) -> Result<(Vec<u8>, &[u8]), StoreError> {
    let mut bytes = Vec::new();
    let mut rest = key;
    loop {
        match rest {
            [0, 1, behind @ ..] => return Ok((bytes, behind)),
            [0, 0xff, behind @ ..] => {
                bytes.push(0);
                rest = behind;
            }
            [byte, behind @ ..] if *byte != 0 => {
                bytes.push(*byte);
                rest = behind;
            }
            _ => return Err(corrupted("a key has no end")),
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(bytes).map_err(|_| corrupted("a key is not UTF-8"))
}

/// What the keys of all rows of an account begin with.
pub(crate) fn account(account: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(account.len() + 4);
    part(&mut key, account.as_bytes());
    key
}

/// What the keys of all rows of a table begin with.
pub(crate) fn table(account: &str, table: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(account.len() + table.len() + 8);
    part(&mut key, account.as_bytes());
    part(&mut key, table.as_bytes());
    key
}

pub(crate) fn row(key: &RowKey) -> Vec<u8> {
    let mut bytes = table(&key.account, &key.table);
    bytes.extend_from_slice(key.id.as_bytes());
    bytes
}

pub(crate) fn read_row(key: &[u8]) -> Result<RowKey, StoreError> {
    let (account, rest) = take_part(key)?;
    let (table, id) = take_part(rest)?;
    Ok(RowKey { account: text(account)?.into(), table: text(table)?.into(), id: text(id.to_vec())?.into() })
}

/// What the entries of an index begin with.
pub(crate) fn index(number: u32, account: &str) -> Vec<u8> {
    let mut key = number.to_be_bytes().to_vec();
    part(&mut key, account.as_bytes());
    key
}

pub(crate) fn entry(number: u32, account: &str, index_key: &[u8], id: &str) -> Vec<u8> {
    let mut key = index(number, account);
    part(&mut key, index_key);
    key.extend_from_slice(id.as_bytes());
    key
}

/// The index key as it stands inside an entry, without its end: what an entry is compared with.
pub(crate) fn escaped(index_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    part(&mut key, index_key);
    key.truncate(key.len() - 2);
    key
}

/// The index key, still escaped, and the id of an entry that begins with `prefix` bytes of [`index`].
pub(crate) fn split_entry(key: &[u8], prefix: usize) -> Result<(&[u8], &[u8]), StoreError> {
    let rest = key.get(prefix..).ok_or_else(|| corrupted("an entry of an index is cut short"))?;
    let mut at = 0;
    loop {
        match rest.get(at..) {
            Some([0, 1, ..]) => return Ok((&rest[..at], &rest[at + 2..])),
            Some([0, 0xff, ..]) => at += 2,
            Some([byte, ..]) if *byte != 0 => at += 1,
            _ => return Err(corrupted("a key has no end")),
        }
    }
}

/// The index key as it was, of what [`split_entry`] gives.
pub(crate) fn unescaped(index_key: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (bytes, _) = take_part(&[index_key, &[0, 1]].concat())?;
    Ok(bytes)
}

pub(crate) fn scope(scope: &ScopeKey) -> Vec<u8> {
    let mut key = table(&scope.account, &scope.table);
    key.extend_from_slice(scope.scope.as_bytes());
    key
}

pub(crate) fn read_scope(key: &[u8]) -> Result<ScopeKey, StoreError> {
    let RowKey { account, table, id } = read_row(key)?;
    Ok(ScopeKey { account, table, scope: id })
}

/// The first key behind all keys that begin with `prefix`; `None` if there can be none.
pub(crate) fn behind(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_like_what_they_name_and_come_back() {
        let ids = ["", "\0", "\0\u{1}", "a", "a\0", "ab", "b", "é", "\u{10ffff}"];
        let mut keys = Vec::new();
        for account in ["", "a", "a\0"] {
            for table in ["t", "t\0", "u"] {
                for id in ids {
                    let key = RowKey { account: account.into(), table: table.into(), id: id.into() };
                    assert_eq!(read_row(&row(&key)).unwrap(), key);
                    keys.push((key.clone(), row(&key)));
                }
            }
        }
        for (one, one_bytes) in &keys {
            for (other, other_bytes) in &keys {
                assert_eq!(one.cmp(other), one_bytes.cmp(other_bytes), "{one:?} {other:?}");
            }
        }
        assert!(read_row(b"abc").is_err());
        assert!(read_row(&[0]).is_err());
    }
}
