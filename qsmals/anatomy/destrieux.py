"""Names of FreeSurfer's second parcellation, ``aparc.a2009s+aseg``.

Destrieux C et al. 2010, NeuroImage 53:1, doi:10.1016/j.neuroimage.2010.06.010.
"""

from qsmals.anatomy.atlases import ALS, BOTH, BOTH_SIDES, LEFT, RIGHT, is_single
from qsmals.anatomy.custom import AtlasFile, UserAtlas
from qsmals.roi.statistics import Region

FIRST_LEFT, FIRST_RIGHT = 11100, 12100
NAMES = (
    *("g_and_s_frontomargin", "g_and_s_occipital_inf", "g_and_s_paracentral", "g_and_s_subcentral"),
    *("g_and_s_transv_frontopol", "g_and_s_cingul_ant", "g_and_s_cingul_mid_ant", "g_and_s_cingul_mid_post"),
    *("g_cingul_post_dorsal", "g_cingul_post_ventral", "g_cuneus", "g_front_inf_opercular", "g_front_inf_orbital"),
    *("g_front_inf_triangul", "g_front_middle", "g_front_sup", "g_ins_lg_and_s_cent_ins", "g_insular_short"),
    *("g_occipital_middle", "g_occipital_sup", "g_oc_temp_lat_fusifor", "g_oc_temp_med_lingual"),
    *("g_oc_temp_med_parahip", "g_orbital", "g_pariet_inf_angular", "g_pariet_inf_supramar", "g_parietal_sup"),
    *("g_postcentral", "g_precentral", "g_precuneus", "g_rectus", "g_subcallosal", "g_temp_sup_g_t_transv"),
    *("g_temp_sup_lateral", "g_temp_sup_plan_polar", "g_temp_sup_plan_tempo", "g_temporal_inf", "g_temporal_middle"),
    *("lat_fis_ant_horizont", "lat_fis_ant_vertical", "lat_fis_post", "", "pole_occipital", "pole_temporal"),
    *("s_calcarine", "s_central", "s_cingul_marginalis", "s_circular_insula_ant", "s_circular_insula_inf"),
    *("s_circular_insula_sup", "s_collat_transv_ant", "s_collat_transv_post", "s_front_inf", "s_front_middle"),
    *("s_front_sup", "s_interm_prim_jensen", "s_intrapariet_and_p_trans", "s_oc_middle_and_lunatus"),
    *("s_oc_sup_and_transversal", "s_occipital_ant", "s_oc_temp_lat", "s_oc_temp_med_and_lingual"),
    *("s_orbital_lateral", "s_orbital_med_olfact", "s_orbital_h_shaped", "s_parieto_occipital", "s_pericallosal"),
    *("s_postcentral", "s_precentral_inf_part", "s_precentral_sup_part", "s_suborbital", "s_subparietal"),
    *("s_temporal_inf", "s_temporal_sup", "s_temporal_transverse"),
)
"""Labels 11101 to 11175 (left) and 12101 to 12175 (right); the 42nd is the medial wall."""

_UNNAMED = {0: "cortex_unknown", 42: "medial_wall"}


def _regions() -> tuple[Region, ...]:
    pairs = [(FIRST_LEFT + n, FIRST_RIGHT + n, name) for n, name in enumerate(NAMES, 1) if name]
    cortex = [Region(i, name, side, (i,)) for a, b, name in pairs for i, side in ((a, LEFT), (b, RIGHT))]
    inner = [r for r in ALS.regions if is_single(r) and r.index < 500 and r.index not in (27, 59)]
    both = [Region(BOTH_SIDES + a, name, BOTH, (a, b)) for a, b, name in pairs]
    return (*inner, *sorted(cortex, key=lambda r: r.index), *both)


def _more() -> tuple[Region, ...]:
    """What not every subject has."""
    inner = [r for r in ALS.more if is_single(r) and r.index < 500]
    sides = ((FIRST_LEFT, LEFT), (FIRST_RIGHT, RIGHT))
    unnamed = [Region(first + n, name, side, (first + n,)) for n, name in _UNNAMED.items() for first, side in sides]
    return (*inner, *unnamed)


DESTRIEUX_ATLAS = UserAtlas(AtlasFile("a2009s", "", "", "T1w"), (*_regions(), *_more()), False, _more())
"""Labels of a subject's own file."""
