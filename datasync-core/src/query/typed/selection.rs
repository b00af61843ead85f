//! Which fields of a row are wanted.

use super::Field;

/// The handle of a field, or a tuple of up to twelve: the fields that [`Query::select`](super::Query::select) asks for.
#[diagnostic::on_unimplemented(
    message = "this is no selection of the fields of `{E}`",
    label = "expected a field of `{E}`, or a tuple of fields"
)]
pub trait Selection<E> {
    #[doc(hidden)]
    fn names(self, into: &mut Vec<String>);
}

impl<E, T> Selection<E> for Field<E, T> {
    fn names(self, into: &mut Vec<String>) {
        into.push(self.name().to_owned());
    }
}

macro_rules! tuples {
    ($($first:ident $($rest:ident)*)?) => {$(
        impl<E, $first: Selection<E>, $($rest: Selection<E>),*> Selection<E> for ($first, $($rest,)*) {
            #[allow(non_snake_case, reason = "the parts are called after their types")]
            fn names(self, into: &mut Vec<String>) {
                let ($first, $($rest,)*) = self;
                $first.names(into);
                $($rest.names(into);)*
            }
        }
        tuples!($($rest)*);
    )?};
}
tuples!(A B C D F G H I J K L M);
