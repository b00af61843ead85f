//! Places on the earth.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{FieldType, kind};
use crate::schema::FieldKind;

/// A place on the earth, in degrees. Its JSON is that of a GeoJSON point, as of Datasync's `GeographyPoint`.
///
/// A filter can ask how far it is from another one: [`distance`](crate::query::Field::distance).
///
/// ```
/// # use datasync_core::entity::Point;
/// let seattle: Point = serde_json::from_str(r#"{"type":"Point","coordinates":[-122.333056,47.609722]}"#)?;
/// assert_eq!(seattle, Point { longitude: -122.333056, latitude: 47.609722 });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// East is positive.
    pub longitude: f64,
    /// North is positive.
    pub latitude: f64,
}

impl FieldType for Point {
    type Kind = kind::Points;
    const KIND: FieldKind = FieldKind::Point;
}

#[derive(Serialize, Deserialize)]
struct GeoJson<T> {
    r#type: T,
    coordinates: Vec<f64>,
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        GeoJson { r#type: "Point", coordinates: vec![self.longitude, self.latitude] }.serialize(serializer)
    }
}

/// Whatever stands behind longitude and latitude is not looked at.
impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Point, D::Error> {
        let GeoJson { r#type, coordinates } = GeoJson::<String>::deserialize(deserializer)?;
        match coordinates.as_slice() {
            [longitude, latitude, ..] if r#type == "Point" => Ok(Point { longitude: *longitude, latitude: *latitude }),
            _ => Err(D::Error::custom("a point is `{\"type\":\"Point\",\"coordinates\":[longitude,latitude]}`")),
        }
    }
}
