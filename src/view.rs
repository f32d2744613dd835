//! How a layer walks a tensor: four axes, one stride per operand and axis.

/// The four axes a tensor is visited along, and each operand's stride on them, in elements.
///
/// A statistic is taken over the two *reduced* axes for every point of the two *group* axes:
/// `[group_outer, group_inner, reduce_outer, reduce_inner]`. Stride 0 means "the same value along
/// this axis". Every normalization layer is one row of such numbers (see [`crate::layers`]).
///
/// Elements are counted in `u32`: shapes beyond that are refused before a view is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct View {
    /// Size along each axis.
    pub extent: [u32; 4],
    /// Strides of `x`, `y` and the addend.
    pub data: [u32; 4],
    /// Strides of `weight` and `bias`.
    pub param: [u32; 4],
    /// Strides of the statistics.
    pub stat: [u32; 4],
    /// Strides of a mask over (N, space), which all channels share.
    pub mask: [u32; 4],
}

impl View {
    /// Number of statistics.
    pub fn groups(&self) -> u32 {
        self.extent[0] * self.extent[1]
    }

    /// Number of statistics that [`stat_index`](Self::stat_index) can name: fewer than groups where
    /// running ones serve several samples.
    pub fn statistics(&self) -> u32 {
        let axes = self.extent[..2].iter().zip(&self.stat);
        if self.groups() == 0 {
            return 0;
        }
        1 + axes.map(|(&n, stride)| (n - 1) * stride).sum::<u32>()
    }

    /// Number of elements each statistic covers.
    pub fn group_len(&self) -> u32 {
        self.extent[2] * self.extent[3]
    }

    /// Number of elements in all.
    pub fn elements(&self) -> u32 {
        self.groups() * self.group_len()
    }

    /// Whether group `g` is the contiguous run of elements that starts at `g * group_len`.
    /// Row kernels, windows and the host's slices rely on it.
    pub fn has_dense_rows(&self) -> bool {
        let [go, gi, ro, ri] = self.data;
        let [outer, inner, reduce_outer, reduce_inner] = self.extent;
        (ri == 1 || reduce_inner == 1)
            && (ro == reduce_inner || reduce_outer == 1)
            && (gi == self.group_len() || inner == 1)
            && (go == inner * self.group_len() || outer == 1)
    }

    /// `(group_outer, group_inner)` of a group.
    pub fn group_axes(&self, group: u32) -> (u32, u32) {
        (group / self.extent[1], group % self.extent[1])
    }

    /// Index of a group's `weight` and `bias` where they are constant within the group.
    pub fn param_index(&self, group: u32) -> u32 {
        let (outer, inner) = self.group_axes(group);
        outer * self.param[0] + inner * self.param[1]
    }

    /// Whether parameters vary within a group.
    pub fn params_inside(&self) -> bool {
        (2..4).any(|axis| self.param[axis] != 0 && self.extent[axis] > 1)
    }

    /// Whether each group is one parameter, and those along group_inner are different ones. Rows of
    /// one element are neither this nor [`params_inside`](Self::params_inside): all share one.
    pub fn params_follow_groups(&self) -> bool {
        !self.params_inside() && (self.param[1] != 0 || self.extent[1] == 1)
    }

    /// Index of a group's statistic.
    pub fn stat_index(&self, group: u32) -> u32 {
        let (outer, inner) = self.group_axes(group);
        outer * self.stat[0] + inner * self.stat[1]
    }
}

/// Sorts as few things as a view has axes, stably. What std has for it is made for many: 6 kB of a page's module.
pub(crate) fn sort_axes<T, K: Ord>(axes: &mut [T], key: impl Fn(&T) -> K) {
    for end in 1..axes.len() {
        let mut at = end;
        while at > 0 && key(&axes[at - 1]) > key(&axes[at]) {
            axes.swap(at - 1, at);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance_norm(n: u32, c: u32, s: u32) -> View {
        View {
            extent: [n, c, 1, s],
            data: [c * s, s, 0, 1],
            param: [0, 1, 0, 0],
            stat: [c, 1, 0, 0],
            mask: [s, 0, 0, 1],
        }
    }

    #[test]
    fn groups_map_to_channels() {
        let view = instance_norm(2, 3, 5);
        assert_eq!((view.groups(), view.group_len(), view.elements()), (6, 5, 30));
        let params: Vec<u32> = (0..6).map(|g| view.param_index(g)).collect();
        assert_eq!(params, [0, 1, 2, 0, 1, 2]);
        let stats: Vec<u32> = (0..6).map(|g| view.stat_index(g)).collect();
        assert_eq!(stats, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn dense_rows_are_recognised() {
        assert!(instance_norm(2, 3, 5).has_dense_rows());
        assert!(instance_norm(1, 1, 1).has_dense_rows());
        let channels_last = View { data: [15, 1, 0, 3], ..instance_norm(2, 3, 5) };
        assert!(!channels_last.has_dense_rows());
        let batch_norm = View {
            extent: [1, 3, 2, 5],
            data: [0, 5, 15, 1],
            param: [0, 1, 0, 0],
            stat: [0, 1, 0, 0],
            mask: [0, 0, 5, 1],
        };
        assert!(!batch_norm.has_dense_rows());
    }
}
